"""Exports checkpoints of SAM3 to ONNX graphs and references, at job time; needs PyTorch and transformers."""
