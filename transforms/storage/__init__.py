"""Opening paths and URLs."""
