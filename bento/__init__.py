"""Serves a proven model with BentoML and ONNX Runtime; needs no torch."""
