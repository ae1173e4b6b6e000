"""The page, its uploads and the videos it shows, as one ASGI application."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import MissingExtraError
from ..index.video_index import VideoIndex
from .access import AllowlistMiddleware
from .media import Media
from .page import SCRIPTS, STYLES, build_page, build_theme
from .search import Search
from .uploads import MAX_UPLOAD, Uploads

try:
    import gradio as gr
    from fastapi import FastAPI
except ImportError as error:
    raise MissingExtraError("the page needs gradio: pip install 'towhee-clip4clip[retrieval]'") from error


def make_app(index: VideoIndex, uploads_folder: Path) -> FastAPI:
    """Return the application, without a login and without checks of host names.

    Args:
        index: index to search.
        uploads_folder: existing folder for the clips that visitors search by; each clip is deleted after its search.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(uploads_folder)
    uploads, media = Uploads(uploads_folder), Media(index)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/library/video", media.video, methods=["GET", "HEAD"], response_model=None)
    app.add_api_route("/library/poster", media.poster, methods=["GET"], response_model=None)
    # Added before Gradio's own route of this name, so that it replaces that route.
    app.add_api_route("/gradio_api/upload", uploads.receive, methods=["POST"], response_model=None)
    app.add_middleware(AllowlistMiddleware, uploads=uploads)
    return gr.mount_gradio_app(
        app,
        build_page(Search(index, uploads)),
        "/",
        theme=build_theme(),
        css_paths=STYLES,
        head=f"<script>{SCRIPTS.read_text('utf-8')}</script>",
        footer_links=[],
        show_error=False,
        max_file_size=MAX_UPLOAD,
    )
