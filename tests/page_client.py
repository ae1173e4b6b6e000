"""How programs and browsers talk to the page and its API."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

SEARCH = "/api/search"


def address(folder: str, video_id: object) -> str:
    """Return the path of something that the server has for a video, such as ``/media/%2Fa.mp4``."""
    return f"/{folder}/{quote(str(video_id), safe='')}"


def search_by_clip(client: Any, clip: Path, **parameters: Any) -> Any:
    """Search by an uploaded clip, and return the response."""
    return client.post(SEARCH, files={"clip": (clip.name, clip.read_bytes())}, params=parameters)


def files_in(folder: Path) -> list[Path]:
    """Return all files below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def multipart_form(name: str, content: str | bytes) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a form with one file, ``a.mp4``, in the field ``name``."""
    content = content.encode() if isinstance(content, str) else content
    start = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a.mp4"\r\n\r\n'.encode()
    return start + content + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}
