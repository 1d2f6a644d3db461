"""Pictures of what the analyses found, drawn with matplotlib; they compute nothing themselves."""
