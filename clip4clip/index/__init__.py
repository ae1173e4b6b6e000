"""Store vectors of videos and find the nearest ones."""
