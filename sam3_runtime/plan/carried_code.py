"""Digests of code that was moved and not changed, each with the digest that it had before.

A job whose code has one of them keeps the digest of before, so that a folder that an earlier version built needs no
rebuild. ``python -m tests.carry`` writes the table, and ``tests/test_carried_code.py`` admits it: graphs and engines of
ONNX Runtime must be the same bytes as before.
"""

CARRIED: dict[str, str] = {
    "0a3a36c58784f16a": "4821ee95e95b1ef9",
    "15935c7d60b4b97e": "2f487d8f57d225aa",
    "22fa77fbabc99806": "1e862a10175f025f",
    "25d6f628ce7b1dfc": "0c1ca61e5ebb2375",
    "34d2d2ade553e3a9": "39b33f63da320cdd",
    "6563c39ca9285918": "2f44ac63fa26e31d",
    "70cff261900d5b38": "f01c6be5eaeb0975",
    "ae150ab88587e07c": "e39e7b4093b4b512",
    "bdd37138ca135d0c": "f20338714e2d52b6",
    "c9394849d0948d5f": "a9930d35853f210b",
    "c988b66d6f77adfc": "cd2acaa8d413ce61",
    "df41993f4810f1ea": "250de5520dd5d572",
    "e22ef31ebb65fb54": "a0171193159096ce",
    "ea97e87c0e494e51": "49fb00ebb9d8a7fc",
    "f88e124bb4e3be50": "e6be3dda1458709b",
}
