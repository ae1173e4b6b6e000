"""Compute towers and heads, with torch or ONNX Runtime, on the chosen device."""
