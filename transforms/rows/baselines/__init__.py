"""Baselines and backgrounds: drawing, computing and storing them."""
