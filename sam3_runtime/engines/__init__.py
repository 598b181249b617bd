"""Engines of any backend. Registry: what the backends are (:mod:`registry`)."""
