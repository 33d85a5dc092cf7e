"""Pages of results and studies: one HTML file each, which needs nothing else, not even a script."""
