"""Methods that read the trees themselves."""
