"""How well a variant finds what is there: concept data sets, what is asked of them, metrics, and the gate's task level.

``data_set`` reads COCO files, ``questions`` asks a finder everything that one asks, ``engines`` makes a finder of a
variant, ``metrics`` measures answers, ``reference`` is the file of what float32 PyTorch reaches, ``gate`` compares.
Runtime: needs neither PyTorch nor the checkpoint.
"""
