"""How a browser talks to the page: queries, uploads, and Gradio's events."""

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


def multipart_form(name: str, content: str) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a form with one file, ``a.mp4``, in the field ``name``."""
    form = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a.mp4"\r\n\r\n{content}\r\n--x--\r\n'
    return form.encode(), {"Content-Type": "multipart/form-data; boundary=x"}


def ask(tab: Any, query: str) -> None:
    """Type a query into the page, in a tab of playwright's browser, and send it."""
    tab.wait_for_function("document.activeElement.closest('#query')")  # the page listens once its box has the focus
    tab.get_by_label("What the video shows").fill(query)
    tab.keyboard.press("Enter")
