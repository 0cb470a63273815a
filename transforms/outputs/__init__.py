"""The files of a run: names, layout, writing and reading."""
