"""Converts a trained model and proves the result equal to PyTorch's."""
