"""Accuracy on concept data sets.

``data_set`` reads COCO files, ``questions`` prompts a detector with them, ``metrics`` measures its answers, and
``reference`` stores the accuracy of float32 PyTorch. Runtime: needs neither PyTorch nor the checkpoint.
"""
