"""Digests of code that was moved and not changed, each with the digest that it had before.

A job whose code has one of them keeps the digest of before, so that a folder that an earlier version built needs no
rebuild. ``python -m tests.carry`` writes the table, and ``tests/test_carried_code.py`` admits it: graphs and engines of
ONNX Runtime must be the same bytes as before.
"""

CARRIED: dict[str, str] = {
    "0105f3d0ebb28f62": "2f487d8f57d225aa",
    "16fb8fa1c4fcaf9e": "4821ee95e95b1ef9",
    "1c15f58e576f812e": "250de5520dd5d572",
    "22fa77fbabc99806": "1e862a10175f025f",
    "2daeb41119f4e92f": "a9930d35853f210b",
    "3117bd45207e57e7": "a0171193159096ce",
    "3bd2d5e48e57713c": "39b33f63da320cdd",
    "54b612b9b91573b0": "0c1ca61e5ebb2375",
    "6d7f50a674db5483": "e39e7b4093b4b512",
    "6f2bee86196f9787": "cd2acaa8d413ce61",
    "812e0342dbe65d3b": "2f44ac63fa26e31d",
    "831bb2747576bff6": "f20338714e2d52b6",
    "e42e89a1f4bb2c2e": "f01c6be5eaeb0975",
    "ea97e87c0e494e51": "49fb00ebb9d8a7fc",
    "f89f49a6dbbe79b2": "e6be3dda1458709b",
}
