"""Tests for clip4clip.web.media: which files of this machine a visitor can fetch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import numpy as np
from constants import DEMO_MODEL
from servers import PageServer, get

from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex
from clip4clip.weights.identity import identify


def test_only_files_that_the_index_names_can_be_fetched(page: PageServer, library: Path) -> None:
    clip = sorted((library / "clips").glob("0-*.mp4"))[0]
    status, body = page.get(f"/library/video?id={quote(str(clip), safe='')}")
    assert (status, body) == (200, clip.read_bytes())
    status, body = page.get(f"/library/video?id={quote(str(clip), safe='')}", Range="bytes=10-19")
    assert (status, body) == (206, clip.read_bytes()[10:20])
    secrets = [library / "secret.txt", library / "secret.mp4", library / "videos.db", Path("/etc/passwd")]
    inner = library / "clips" / ".." / "secret.mp4"
    for secret in (*secrets, inner):
        plain, coded = str(secret), quote(str(secret), safe="")
        for path in (
            f"/library/video?id={coded}",
            f"/library/poster?id={coded}",
            f"/library/video?id={quote(str(clip), safe='')}%00{coded}",
            f"/library/..{plain}",
            f"/library/%2e%2e{coded}",
            f"/file={plain}",
            f"/file={coded}",
            f"/gradio_api/file={plain}",
            f"/gradio_api/file={coded}",
            f"/gradio_api/file={clip.parent}/../{secret.name}",
            f"/static/..{plain}",
            f"/assets/%2e%2e{coded}",
            plain,
            f"/..{plain}",
        ):
            status, body = page.get(path)
            assert status >= 400 or b"Find videos by a sentence" in body, (path, status)
            assert b"secret" not in body.replace(b"secrets", b"") or status >= 400, path
    # A clip of the index can be fetched by its id only, and not by Gradio's own route.
    assert page.get(f"/gradio_api/file={clip}")[0] >= 400
    assert page.get("/library/video?id=x%27%20or%20id%20!=%20%27")[0] == 404
    assert page.get("/library/video?id=x%22]%20or%20id%20not%20in%20[%22")[0] == 404
    assert page.get("/library/video")[0] == 404


def test_a_file_that_is_not_a_video_is_not_served_even_if_the_index_names_it(
    library: Path, tmp_path: Path, serve: Callable[..., str]
) -> None:
    demo = identify(None, DEMO_MODEL)
    paths = ["/etc/passwd", str(library / "secret.txt"), "secret.mp4", "x" * 5000 + ".mp4", str(library / "secret.mp4")]

    def visit(url: str) -> None:
        for path in paths[:-1]:
            for kind in ("video", "poster"):
                assert get(url, f"/library/{kind}?id={quote(path, safe='')}")[0] == 404
        assert get(url, f"/library/video?id={quote(paths[-1], safe='')}")[0] == 200
        assert get(url, f"/library/poster?id={quote(paths[-1], safe='')}")[0] == 200
        assert get(url, "/library/video?id=%01")[0] == 404

    with VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        vector = np.eye(1, 128, dtype=np.float32)[0]
        index.add({"id": path, "path": path, "vector": vector, **asdict(demo)} for path in paths)
        assert "Traceback" not in serve(index, visit)
