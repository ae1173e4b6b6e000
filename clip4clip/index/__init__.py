"""Store the vectors of videos and find the nearest ones.

:class:`~clip4clip.index.video_index.VideoIndex` handles models, tables and folders of videos. It stores and searches
rows through an engine, which knows nothing about them (:class:`~clip4clip.index.engine.Engine`):
:class:`~clip4clip.index.local.LocalCollection` for a file on this machine, or
:class:`~clip4clip.index.milvus.MilvusCollection` for a Milvus server. Both take the filters of
:mod:`clip4clip.index.filters`.
"""
