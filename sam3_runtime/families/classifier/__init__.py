"""Image classifiers: any model of timm, from a picture to the logits of its classes."""
