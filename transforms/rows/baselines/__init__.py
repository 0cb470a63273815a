"""Baselines and backgrounds: drawing, computing and keeping them."""
