"""The language of filters: parse a condition, check it, and render it for SQLite and for a Milvus server.

``parse.parse_filter`` turns text into a tree. ``sql.to_sql`` and ``milvus.to_milvus`` turn the tree into conditions
that mean the same on both engines.
"""
