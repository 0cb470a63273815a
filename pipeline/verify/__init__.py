"""Verifies that a committed run is unchanged and can be reproduced."""
