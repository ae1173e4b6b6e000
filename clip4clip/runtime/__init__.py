"""Compute a tower with torch or ONNX Runtime, on the device that was chosen."""
