"""Compares files and services with PyTorch."""
