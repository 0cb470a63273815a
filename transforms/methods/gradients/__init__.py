"""Methods that need gradients."""
