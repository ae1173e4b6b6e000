"""How a browser talks to the page: uploads, and Gradio's events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

UPLOAD = "/gradio_api/upload"
RUN = "/gradio_api/run/predict"


def event_number(config: dict[str, Any], event: str) -> int:
    """Return Gradio's number of the function that an event of the page, such as "click", calls."""
    functions = (each for each in config["dependencies"] if each["backend_fn"] and each["targets"][0][1] == event)
    return next(each["id"] for each in functions)


def clip_event(config: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the JSON of the event that searches by an uploaded clip."""
    return {"fn_index": event_number(config, "upload"), "data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}


def search_by_clip(client: Any, clip: Path) -> str:
    """Upload a clip, search by it, and return the HTML of the status line."""
    uploaded = client.post(UPLOAD, files={"files": (clip.name, clip.read_bytes())})
    assert uploaded.status_code == 200, uploaded.text
    return client.post(RUN, json=clip_event(client.get("/config").json(), uploaded.json()[0])).json()["data"][1]


def files_in(folder: Path) -> list[Path]:
    """Return all files below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]
