"""Find a checkpoint by name, path or hub reference, and read it as a checked state dict."""
