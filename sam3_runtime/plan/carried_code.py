"""Digests of code that was moved and not changed, each with the digest that it had before.

A job whose code has one of them keeps the digest of before, so that a folder that an earlier version built needs no
rebuild. ``python -m tests.carry`` writes the table, and ``tests/test_carried_code.py`` admits it: graphs and engines of
ONNX Runtime must be the same bytes as before.
"""

CARRIED: dict[str, str] = {
    "3bd2d5e48e57713c": "39b33f63da320cdd",
    "44bf36bbfdfe89a8": "2f487d8f57d225aa",
    "577a8efad99f3616": "250de5520dd5d572",
    "5a8101d672c46c15": "49fb00ebb9d8a7fc",
    "6d7f50a674db5483": "e39e7b4093b4b512",
    "7090591f596e05d4": "cd2acaa8d413ce61",
    "70f05e6a69e7e307": "2f44ac63fa26e31d",
    "831bb2747576bff6": "f20338714e2d52b6",
    "8739e89a41866355": "a0171193159096ce",
    "89bb090832a84ce1": "a9930d35853f210b",
    "acc0f106dbbf1232": "0c1ca61e5ebb2375",
    "e42e89a1f4bb2c2e": "f01c6be5eaeb0975",
    "f89f49a6dbbe79b2": "e6be3dda1458709b",
    "f8c50a986164a13c": "4821ee95e95b1ef9",
    "fc465f6f5e09adfd": "1e862a10175f025f",
}
