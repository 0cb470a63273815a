"""The files of a run: their names and layout, and code to write and read them."""
