"""Digests of code that was moved and not changed, each with the digest that it had before.

A job whose code has one of them keeps the digest of before, so that a folder that an earlier version built needs no
rebuild. ``python -m tests.carry`` writes the table, and ``tests/test_carried_code.py`` admits it: graphs and engines of
ONNX Runtime must be the same bytes as before.
"""

CARRIED: dict[str, str] = {
    "106b97f0fbdf23b4": "f01c6be5eaeb0975",
    "2290a5520e161539": "2f44ac63fa26e31d",
    "680c862d1994dbed": "f20338714e2d52b6",
    "80b88be9b4f57c41": "39b33f63da320cdd",
    "a90f92c8f9a479e5": "e39e7b4093b4b512",
}
