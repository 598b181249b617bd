"""The command sam3-runtime."""
