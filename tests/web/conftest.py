"""Indexes, servers and clients of the page and its API."""

from __future__ import annotations

import contextlib
import gc
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import write_scenes
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


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of three scenes; see :func:`clips.write_scenes`."""
    return write_scenes(tmp_path_factory.mktemp("scenes") / "Ünï 日本 100%.mp4")


@pytest.fixture(scope="session")
def index_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., VideoIndex]]:
    """``(*paths)``: an index of videos at these paths, which are their ids, each with a segment ``<path>#t=2,4``."""
    model = asdict(identify(None, DEMO_MODEL))
    vector = np.eye(1, 128, dtype=np.float32)[0]
    with contextlib.ExitStack() as resources:

        def make(*paths: object) -> VideoIndex:
            uri = tmp_path_factory.mktemp("index") / "videos.db"
            index = resources.enter_context(VideoIndex(uri, encoder=EncoderSpec(DEMO_MODEL)))
            rows = [{"id": f"{path}#t=2,4", "video": str(path), "start": 2.0, "end": 4.0} for path in paths]
            index.add({**row, "path": row["video"], "vector": vector, **model} for row in rows)
            return index

        yield make


@pytest.fixture(scope="session")
def clips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for the clips that are downloaded from ``scenes_client``."""
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="session")
def scenes_index(scenes: Path, index_of: Callable[..., VideoIndex]) -> VideoIndex:
    """An index of ``scenes``."""
    return index_of(scenes)


@pytest.fixture(scope="session")
def scenes_client(scenes_index: VideoIndex, clips_folder: Path) -> Any:
    """A client of the application over ``scenes_index``."""
    return make_client(scenes_index, clips_folder)


@pytest.fixture
def client_of(index_of: Callable[..., VideoIndex], tmp_path: Path) -> Callable[..., Any]:
    """``(*paths)``: a client of the application over an index of videos at these paths."""
    return lambda *paths: make_client(index_of(*paths), tmp_path)


class EmptyIndex:
    """A stand-in for an index without videos. It decodes a clip, but loads no model."""

    model = None

    def search(self, text: str | None = None, *, vector: Any = None, **options: Any) -> list[Any]:
        return []

    def embed(self, text: str | None = None, *, video: Any = None, limits: Limits = DEFAULT_LIMITS) -> list[Any]:
        if video is not None:
            list(read_frames(video, 1, limits=limits))
        return [np.eye(1, 128, dtype=np.float32)[0]]

    def get(self, video_id: str) -> None:
        return None

    def videos(self, filter: str = "") -> Iterator[Any]:  # noqa: A002
        return iter(())

    def check_filter(self, filter: str) -> None:  # noqa: A002
        pass

    def calibration(self, wait: bool = True) -> None:
        return None

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
        with warnings.catch_warnings():  # about sockets of connections that it gave up: the process usually ends then
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        if errors:
            raise errors[0]
        return capfd.readouterr().err

    yield run
    signal.signal(signal.SIGTERM, sigterm_handler)
