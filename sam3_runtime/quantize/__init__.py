"""8-bit vision encoders: ranges measured in PyTorch, written into the ONNX graph. Job time only; the runtime never
imports it."""
