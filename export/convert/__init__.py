"""PyTorch modules to files of other formats and precisions."""
