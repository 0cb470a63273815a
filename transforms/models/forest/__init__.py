"""Decision trees as arrays, and compiled loops over them."""
