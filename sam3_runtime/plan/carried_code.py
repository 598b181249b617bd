"""Digests of code that was moved and not changed, each with the digest that it had before.

A job whose code has one of them keeps the digest of before, so that a folder that an earlier version built needs no
rebuild. ``python -m tests.carry`` writes the table, and ``tests/workflow/test_carried_code.py`` admits it: graphs and
engines of ONNX Runtime must be the same bytes as before.
"""

CARRIED: dict[str, str] = {
    "0e211fddb19a1d04": "a0171193159096ce",
    "18f395e1bfa7650a": "a9930d35853f210b",
    "1affef7268365916": "0c1ca61e5ebb2375",
    "3629bdfbb31e9df2": "2f44ac63fa26e31d",
    "3ce82d56f1e74b91": "49fb00ebb9d8a7fc",
    "485b1c44d540e473": "1e862a10175f025f",
    "6bb74375e4839751": "e6be3dda1458709b",
    "8591a0c629fb7822": "4821ee95e95b1ef9",
    "9676601c36f196d9": "2f487d8f57d225aa",
    "a832e996867e449f": "e39e7b4093b4b512",
    "d65d80a3d4a05884": "f20338714e2d52b6",
    "d8728d9b48540e70": "250de5520dd5d572",
    "e4c87151962c9351": "cd2acaa8d413ce61",
    "f3584f8917c815ae": "f01c6be5eaeb0975",
    "fb3eb57818e4e401": "39b33f63da320cdd",
}
