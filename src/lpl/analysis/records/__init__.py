"""What each analysis leaves in its folder: pictures, and the contents of its JSON file."""
