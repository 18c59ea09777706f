"""Predicts millions of X-rays: a folder in, one file out, without PyTorch."""
