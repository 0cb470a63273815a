"""The report of a committed run: one page that needs nothing else, from aggregates and a sample of rows."""
