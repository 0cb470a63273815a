"""Text for the terminal, one module for each verb."""
