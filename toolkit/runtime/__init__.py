"""ONNX Runtime on a file that carries its proof."""
