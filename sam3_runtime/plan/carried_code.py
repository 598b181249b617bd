"""Digests of code that was moved and not changed, each with the digest that it had before.

A job whose code has one of them keeps the digest of before, so that a folder that an earlier version built needs no
rebuild. ``python -m tests.carry`` writes the table, and ``tests/workflow/test_carried_code.py`` admits it: graphs and
engines of ONNX Runtime must be the same bytes as before.
"""

CARRIED: dict[str, str] = {
    "071939d58a4bf632": "cd2acaa8d413ce61",
    "0a64445ea51fa214": "250de5520dd5d572",
    "14d4b69f788fc19c": "a0171193159096ce",
    "3ce82d56f1e74b91": "49fb00ebb9d8a7fc",
    "49969776ab09833a": "39b33f63da320cdd",
    "539fcad13fa1dd8b": "4821ee95e95b1ef9",
    "6bb74375e4839751": "e6be3dda1458709b",
    "85e21fbc7170b11a": "1e862a10175f025f",
    "993ae951b1fadda5": "2f44ac63fa26e31d",
    "adc9f7ef06c433d8": "2f487d8f57d225aa",
    "afb0818c0ad57891": "e39e7b4093b4b512",
    "c464c3375c3e85ae": "a9930d35853f210b",
    "dfdef52f9c82698d": "0c1ca61e5ebb2375",
    "f3584f8917c815ae": "f01c6be5eaeb0975",
    "f9535b9ef3fd35cc": "f20338714e2d52b6",
}
