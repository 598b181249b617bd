"""What turns a timm model into graphs and references, at job time: PyTorch and timm are needed."""
