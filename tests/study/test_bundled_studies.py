"""The studies of the paper's tables and figures."""
