"""From a PyTorch module to an ONNX graph, of any family."""
