"""Store the vectors of videos and find the nearest ones.

:class:`~clip4clip.index.video_index.VideoIndex` deals with models, tables and folders of videos. It stores and searches
rows through an engine, :class:`~clip4clip.index.milvus.MilvusCollection`, which deals with none of these.
"""
