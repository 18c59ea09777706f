"""Networks and their preprocessing, as PyTorch modules."""
