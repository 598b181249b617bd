"""Exports PyTorch modules of any family to ONNX graphs, at job time."""
