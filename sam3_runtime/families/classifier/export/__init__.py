"""Exports timm models to graphs and references, at job time; needs PyTorch and timm."""
