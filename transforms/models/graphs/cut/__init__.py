"""The cut of a graph behind inputs that have no gradients."""
