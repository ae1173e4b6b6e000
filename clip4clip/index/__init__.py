"""Store the vectors of videos and find the nearest ones.

:class:`~clip4clip.index.video_index.VideoIndex` handles models, tables and folders of videos. It stores and searches
rows through an :class:`~clip4clip.index.engine.Engine`, which knows nothing about them.
"""
