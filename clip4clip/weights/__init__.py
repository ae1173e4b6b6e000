"""Find a checkpoint by name, path or hub reference, and read it into a checked state dict."""
