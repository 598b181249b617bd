"""Errors, files, GPUs and YAML: every other package may import this one; it imports none of them."""
