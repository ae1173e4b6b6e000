"""Indexes, servers and clients of the page and its API."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from constants import DEMO_MODEL
from servers import PageServer

from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex
from clip4clip.video import read_frames
from clip4clip.video.limits import DEFAULT_LIMITS, Limits
from clip4clip.weights.identity import identify

NASTY_NAME = '<img src=x onerror=alert(1)> "it\'s" #1 & 100%.mp4'


@pytest.fixture(scope="session")
def nasty_name() -> str:
    """The file name of a clip of ``library`` that is full of characters of HTML, URLs and SQL."""
    return NASTY_NAME


@pytest.fixture(scope="session")
def library(drawings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``clips`` (25 of them), their index ``videos.db``, and files that are not in the index."""
    folder = tmp_path_factory.mktemp("library")
    shutil.copytree(drawings / "eval", folder / "clips")
    first = min((folder / "clips").iterdir())
    shutil.copy(first, folder / "clips" / NASTY_NAME)
    shutil.copy(first, folder / "secret.mp4")
    (folder / "secret.txt").write_text("secret")
    (folder / "broken.mp4").write_text("secret")
    with VideoIndex(folder / "videos.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        assert index.sync(folder / "clips").added == 25
    return folder


@pytest.fixture(scope="session")
def page(library: Path) -> Iterator[PageServer]:
    """The page over the index of ``library``, in a process of its own."""
    pytest.importorskip("fastapi")
    with PageServer(str(library / "videos.db")) as server:
        yield server


@pytest.fixture(scope="session")
def uploads_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for temporary files of ``empty_page``."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="session")
def empty_page(uploads_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """The page over an index without videos, behind a proxy named ``videos.example.com``."""
    pytest.importorskip("fastapi")
    uri = tmp_path_factory.mktemp("index") / "videos.db"
    with VideoIndex(uri, encoder=EncoderSpec(DEMO_MODEL)) as index:
        index.create()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(uploads_folder))
        server = PageServer(str(uri), "--allowed-host", "Videos.example.com", "--allowed-host", "[fd00::5]:443")
    with server:
        yield server
        assert "Traceback" not in server.stop()


@pytest.fixture(scope="session")
def library_client(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of the application over the index of ``library``, without a server."""
    with VideoIndex(library / "videos.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        yield make_client(index, tmp_path_factory.mktemp("uploads"))


SCENES = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 50, 220)}  # two seconds each


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of three scenes of one colour each, ``SCENES``, whose only key frame is the first frame."""
    path = tmp_path_factory.mktemp("scenes") / "Ünï 日本 100%.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"g": "1000", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number in range(60):
            picture = np.full((96, 160, 3), list(SCENES.values())[number // 20], np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.fixture
def client_of(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``(*paths)``: a client of the application over an index of videos at these paths, which are their ids.

    Each video has a segment ``<path>#t=2,4`` from 2 to 4 seconds. Downloaded clips go to ``tmp_path / "clips"``.
    """
    model = asdict(identify(None, DEMO_MODEL))
    vector = np.eye(1, 128, dtype=np.float32)[0]
    with VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec(DEMO_MODEL)) as index:

        def make(*paths: object) -> Any:
            rows = [{"id": f"{path}#t=2,4", "video": str(path), "start": 2.0, "end": 4.0} for path in paths]
            index.add({**row, "path": row["video"], "vector": vector, **model} for row in rows)
            (tmp_path / "clips").mkdir(exist_ok=True)
            return make_client(index, tmp_path / "clips")

        yield make


class EmptyIndex:
    """A stand-in for an index without videos. It decodes a clip, but loads no model."""

    model = None

    def search(
        self,
        text: str | None = None,
        *,
        video: Any = None,
        vector: Any = None,
        limits: Limits = DEFAULT_LIMITS,
        **options: Any,
    ) -> list[Any]:
        if video is not None:
            list(read_frames(video, 1, limits=limits))
        return []

    def get(self, video_id: str) -> None:
        return None

    def videos(self, filter: str = "") -> Iterator[Any]:  # noqa: A002
        return iter(())

    def check_filter(self, filter: str) -> None:  # noqa: A002
        pass

    def count(self) -> int:
        return 0

    def count_vectors(self) -> int:
        return 0


@pytest.fixture(scope="session")
def empty_index() -> Any:
    """An index without videos, with which nothing but the page can fail."""
    return EmptyIndex()


def make_client(index: Any, folder: Path) -> Any:
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    from clip4clip.web.app import make_app

    return TestClient(make_app(index, folder), raise_server_exceptions=False)


@pytest.fixture
def client(tmp_path: Path, empty_index: Any) -> Any:
    """A client of the application over ``empty_index``, without a server; uploads go to ``tmp_path``."""
    return make_client(empty_index, tmp_path)


@pytest.fixture(scope="session")
def shared_client(empty_index: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same for tests that upload nothing."""
    return make_client(empty_index, tmp_path_factory.mktemp("uploads"))


@pytest.fixture
def serve(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """``(index, visit, stop_signal=SIGINT, **options)``: serve the page by ``run_page``, in this process.

    ``visit(url)`` runs in a thread; when it returns, the page gets ``stop_signal``. Returns what the page has written
    to stderr, and raises what ``visit`` raised. Much faster than a :class:`PageServer`.
    """
    pytest.importorskip("fastapi")
    from clip4clip.web.server import run_page

    sigterm_handler = signal.getsignal(signal.SIGTERM)

    def run(index: Any, visit: Callable[[str], object], stop_signal: int = signal.SIGINT, **options: Any) -> str:
        errors: list[BaseException] = []

        def visitor(url: str) -> None:
            try:
                visit(url)
            except BaseException as error:
                errors.append(error)
            finally:
                signal.raise_signal(stop_signal)

        def on_ready(url: str) -> None:
            threading.Thread(target=visitor, args=[url], daemon=True).start()

        run_page(index, port=0, on_ready=on_ready, **options)
        if errors:
            raise errors[0]
        return capfd.readouterr().err

    yield run
    signal.signal(signal.SIGTERM, sigterm_handler)
