"""Small JSON files that describe every other file, and measurements."""
