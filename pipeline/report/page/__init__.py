"""The page: theme, markup and rendering to one HTML file."""
