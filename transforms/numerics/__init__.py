"""Random numbers and quadrature."""
