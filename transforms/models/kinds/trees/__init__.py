"""Tree models, one file for each library."""
