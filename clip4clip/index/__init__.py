"""Store the vectors of videos and find the nearest ones.

:class:`~clip4clip.index.video_index.VideoIndex` knows models, tables and folders of videos. It stores and searches rows
by an engine, :class:`~clip4clip.index.milvus.MilvusCollection`, which knows neither.
"""
