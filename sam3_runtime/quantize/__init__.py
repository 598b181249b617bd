"""8-bit graphs: ranges measured in PyTorch or by TensorRT, and written into ONNX graphs. Not for the runtime."""
