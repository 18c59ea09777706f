"""Predicts millions of X-rays: a folder in, one Parquet file out, without PyTorch."""
