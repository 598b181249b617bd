"""Digests of code that was moved and not changed, each with the digest that it had before.

A job whose code has one of them keeps the digest of before, so that a folder that an earlier version built needs no
rebuild. ``python -m tests.carry`` writes the table, and ``tests/test_carried_code.py`` admits it: graphs and engines of
ONNX Runtime must be the same bytes as before.
"""

CARRIED: dict[str, str] = {
    "0f5e097c290a2293": "0c1ca61e5ebb2375",
    "18d3dfad800b0a79": "2f487d8f57d225aa",
    "1f4e59a21b304eb0": "250de5520dd5d572",
    "28d02a7e0c98b0ef": "39b33f63da320cdd",
    "3ce216d3ea0c82de": "1e862a10175f025f",
    "57bbd5d77cedbe93": "a0171193159096ce",
    "74a76e3be17aad0f": "e39e7b4093b4b512",
    "7dad56ea49c9eec3": "f20338714e2d52b6",
    "983ee104c6d1f9e5": "cd2acaa8d413ce61",
    "a6af0299918c9508": "2f44ac63fa26e31d",
    "c3c215e0ac2178f4": "4821ee95e95b1ef9",
    "cfaf41c6cd9ff966": "49fb00ebb9d8a7fc",
    "cfc2eeede8dfb4ec": "a9930d35853f210b",
    "ef890b726842caf1": "f01c6be5eaeb0975",
}
