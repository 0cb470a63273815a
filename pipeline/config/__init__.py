"""The config file: typed models of its blocks, and errors that name file, key and remedy."""
