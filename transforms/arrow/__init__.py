"""Arrow types and values without details of storage."""
