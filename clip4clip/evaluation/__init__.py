"""Evaluation: read pairs of videos and sentences, and compute retrieval metrics."""
