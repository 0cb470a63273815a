"""Models: loading them, and what methods may ask of them."""
