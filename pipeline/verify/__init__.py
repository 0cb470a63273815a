"""Verifying that a committed run is still what it was."""
