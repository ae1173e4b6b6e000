"""The page, its API and the videos it shows, as one ASGI application."""

from __future__ import annotations

from pathlib import Path

from ..errors import MissingExtraError
from ..index.video_index import VideoIndex

try:
    from fastapi import FastAPI
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

from .. import __version__
from .access import RawPathMiddleware, SizeLimitMiddleware
from .api import Api
from .documentation import Documentation
from .media import Media
from .page import PageFiles
from .problems import handle_problems
from .thumbnails import Thumbnails
from .video_files import VideoFiles


def make_app(index: VideoIndex, clips_folder: Path) -> FastAPI:
    """Return the application, without a login and without checks of host names.

    Args:
        index: index to search.
        clips_folder: existing folder for the clips that visitors download; each is deleted once it is sent.
    """
    app = FastAPI(
        title="clip4clip",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    handle_problems(app)
    app.include_router(Api(index).router)
    video_files = VideoFiles(index)
    app.include_router(Media(video_files, clips_folder).router)
    app.include_router(Thumbnails(video_files).router)
    documentation, files = Documentation(app), PageFiles()
    for path, page in (
        ("/", files.page),
        ("/static/{file}", files.file),
        ("/api", documentation.page),
        ("/api/openapi.json", documentation.openapi),
    ):
        app.add_api_route(path, page, methods=["GET", "HEAD"], response_model=None, include_in_schema=False)
    app.add_middleware(SizeLimitMiddleware)
    app.add_middleware(RawPathMiddleware)
    return app
