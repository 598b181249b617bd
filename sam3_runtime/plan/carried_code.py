"""Digests of code that was moved and not changed, each with the digest that it had before.

A job whose code has one of them keeps the digest of before, so that a folder that an earlier version built needs no
rebuild. ``python -m tests.carry`` writes the table, and ``tests/test_carried_code.py`` admits it: graphs and engines of
ONNX Runtime must be the same bytes as before.
"""

CARRIED: dict[str, str] = {
    "133c694d87885d64": "f01c6be5eaeb0975",
    "30c3b520894c836d": "a0171193159096ce",
    "33e98695aaaf397f": "f20338714e2d52b6",
    "36ea6ad84cf2d552": "49fb00ebb9d8a7fc",
    "4d080e42cc345cc2": "4821ee95e95b1ef9",
    "733451a8ffac4eb0": "2f44ac63fa26e31d",
    "7a325e28a0d4085b": "2f487d8f57d225aa",
    "7b3ff6acd369aae9": "e6be3dda1458709b",
    "9d1a012f2f2dda96": "39b33f63da320cdd",
    "b9f39dc626e9865e": "250de5520dd5d572",
    "c5a007e43a5a4ab4": "a9930d35853f210b",
    "c68584b923707e1b": "cd2acaa8d413ce61",
    "d87331ec920bb614": "e39e7b4093b4b512",
    "de3eba29e0101802": "0c1ca61e5ebb2375",
    "e2f5e07fd84a0a7a": "1e862a10175f025f",
}
