"""Cuts of a graph at the tensors where gradients can begin, after inputs that have no gradients."""
