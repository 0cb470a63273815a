"""Tree models, with one module for each library."""
