"""The run directory: its layout, lock, checks, and what a committed run keeps."""
