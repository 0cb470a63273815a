"""Arrow types and values in plain terms."""
