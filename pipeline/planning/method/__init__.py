"""Choosing a method: the default, what each requires of a model, allowed values of its keys."""
