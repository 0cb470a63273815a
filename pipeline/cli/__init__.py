"""The command line: verbs, their options, and how errors are printed."""
