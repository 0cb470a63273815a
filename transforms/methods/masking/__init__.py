"""Methods that evaluate a model on masked rows."""
