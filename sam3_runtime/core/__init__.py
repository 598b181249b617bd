"""Errors, files, GPUs and YAML: what every other package may use, and what knows none of them."""
