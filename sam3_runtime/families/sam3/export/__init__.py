"""Export: from a checkpoint to ONNX graphs and the float32 reference. Job time only; the runtime never imports it."""
