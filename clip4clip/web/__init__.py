"""Serve an index as a web page."""
