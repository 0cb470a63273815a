"""Images in a report and its figures as files."""
