"""Serve an index as a web page: :func:`clip4clip.web.server.run_page`."""
