"""The contract of methods, as checks that run without a test framework on models with a closed form."""
