"""The small JSON files that say what every other file is, and what was measured."""
