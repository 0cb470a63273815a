"""Chooses a method: the default, requirements of each method, allowed values of its keys."""
