"""Image classifiers: any model of timm, from an image to the logits of its classes."""
