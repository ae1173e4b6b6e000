"""The files of the page: HTML, CSS and JavaScript from the folder ``static`` of the package."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import MissingExtraError

try:
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

FOLDER = Path(__file__).with_name("static")
INDEX = "index.html"
MEDIA_TYPES = {  # written out, as those of the system may be wrong
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/vnd.microsoft.icon",
}


class PageFiles:
    """Answer requests for the files of the page. They are read once; no request reads the disk.

    Args:
        folder: folder of the files. Those in folders below it, and those of other types, are not served.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {
            path.name: (path.read_bytes(), MEDIA_TYPES[path.suffix])
            for path in (folder.iterdir() if folder.is_dir() else ())
            if path.suffix in MEDIA_TYPES
        }

    async def page(self, request: Request) -> Response:
        """Answer with the page itself."""
        return await self.file(request, INDEX)

    async def file(self, request: Request, file: str) -> Response:
        """Answer with a file, or with 304 if the browser has it already."""
        if file not in self._files:
            raise HTTPException(404)
        content, media_type = self._files[file]
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers={"ETag": tag})
        return Response(content, headers={"ETag": tag}, media_type=media_type)
