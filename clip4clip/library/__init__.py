"""Embed many videos into a table of vectors."""
