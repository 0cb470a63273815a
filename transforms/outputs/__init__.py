"""Part files of a run: their layout, writing and reading."""
