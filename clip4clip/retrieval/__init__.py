"""Finding videos by a sentence, and measuring how well that works."""
