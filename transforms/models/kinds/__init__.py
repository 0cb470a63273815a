"""Kinds of models, with one module for each."""
