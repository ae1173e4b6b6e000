"""A client that openapi-python-client generates from the OpenAPI document can do all that the API offers."""

from __future__ import annotations

import importlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from constants import DEMO_MODEL
from PIL import Image
from servers import PageServer

from clip4clip import TextEncoder
from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex

pytestmark = pytest.mark.slow
pytest.importorskip("openapi_python_client", reason="needs Python 3.11")

# The generator knows bytes by this type only.
BINARY_TYPES = dict.fromkeys(("image/jpeg", "video/*"), "application/octet-stream")


@pytest.fixture(scope="module")
def document(page: PageServer) -> dict[str, Any]:
    """The OpenAPI document of the server."""
    status, body = page.get("/api/openapi.json")
    assert status == 200
    return dict(json.loads(body))


@pytest.fixture(scope="module")
def package(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The generated client, as a package."""
    from openapi_python_client import config, generate

    folder = tmp_path_factory.mktemp("client")
    source = folder / "openapi.json"
    source.write_text(json.dumps(document))
    settings = config.ConfigFile(post_hooks=[], content_type_overrides=BINARY_TYPES)
    target = folder / "generated_client"
    errors = generate(config=config.Config.from_sources(settings, config.MetaType.NONE, source, "utf-8", True, target))
    assert [error.detail for error in errors] == []  # it understands all of the document
    sys.path.insert(0, str(folder))
    yield importlib.import_module("generated_client")
    sys.path.remove(str(folder))


class Api:
    """The operations of a generated client by their names, and which of them have been called."""

    def __init__(self, client: Any) -> None:
        self.client, self.called = client, set[str]()
        self.problem = self.load("models").Problem

    def load(self, name: str) -> Any:
        return importlib.import_module(f"generated_client.{name}")

    def ask(self, operation: str, *arguments: Any, **options: Any) -> Any:
        """Return the answer of an operation, which must be what it declares for this status."""
        self.called.add(operation)
        response = self.load(f"api.default.{operation}").sync_detailed(*arguments, client=self.client, **options)
        assert response.parsed is not None, (operation, response)
        if response.status_code >= 400:
            assert isinstance(response.parsed, self.problem)
            assert response.parsed.status == response.status_code
        else:
            assert not isinstance(response.parsed, self.problem), response.parsed
        return response.parsed


@pytest.fixture(scope="module")
def api(package: Any, page: PageServer) -> Iterator[Api]:
    with package.Client(base_url=page.url.rstrip("/")) as client:
        yield Api(client)


def image(file: Any) -> Image.Image:
    """Decode the picture that an operation returned."""
    return Image.open(file.payload)


def test_a_generated_client_uses_every_operation(
    api: Api, document: dict[str, Any], easy: tuple[str, str], library: Path, nasty_name: str
) -> None:
    caption, name = easy
    status = api.ask("get_status")
    assert (status.model, status.videos, status.vectors) == (DEMO_MODEL, 25, 25)
    assert status.versions["torch"]

    found = api.ask("search", q=caption, k=3)
    assert (found.moments[0].name, len(found.moments), found.has_more) == (name, 3, True)
    everything = api.ask("search", q=caption, k=30, per_video="all", filter_='path like "%.mp4"', min_score=-1.0)
    assert sum(1 + len(moment.copies) for moment in everything.moments) == 25

    clip = api.load("types").File(payload=io.BytesIO((library / "clips" / name).read_bytes()), file_name=name)
    body = api.load("models").SearchByClipBody(clip=clip)
    assert api.ask("search_by_clip", body=body, k=2).moments[0].name == name

    vector = np.array(api.ask("embed_text", body=api.load("models").EmbedRequest(text=caption)).vector, np.float32)
    np.testing.assert_allclose(vector, TextEncoder.load(DEMO_MODEL)(caption), atol=1e-5)

    listed = api.ask("list_videos", k=100)
    assert sorted(video.path for video in listed.videos) == sorted(map(str, (library / "clips").iterdir()))
    for video in listed.videos:
        assert api.ask("get_video", video.id).id == video.id
    odd = next(video for video in listed.videos if video.name == nasty_name)
    with VideoIndex(library / "videos.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        nearest = index.similar(odd.id, limit=1)[0]
    similar = api.ask("similar_moments", odd.id, k=5, t=0.5).moments
    assert similar[0].id == nearest.id
    assert odd.id not in [moment.id for moment in similar]

    assert api.ask("get_media", odd.id).payload.read() == Path(odd.path).read_bytes()
    cut = api.ask("get_clip", odd.id, start=0.5, end=1.5).payload.read()
    assert cut[4:8] == b"ftyp"
    assert image(api.ask("get_thumbnail", odd.id, t=1.0)).format == "JPEG"
    strip = image(api.ask("get_strip", odd.id, start=0.0, end=2.0))
    assert strip.width == 6 * 160

    operations = {each["operationId"] for path in document["paths"].values() for each in path.values()}
    assert api.called == operations


def test_errors_reach_a_generated_client_as_problems(api: Api) -> None:
    def clip(content: bytes) -> Any:
        return api.load("models").SearchByClipBody(clip=api.load("types").File(payload=io.BytesIO(content)))

    failures: list[tuple[int, str, Callable[[], Any]]] = [
        (400, "the filter is invalid at character 11", lambda: api.ask("search", q="a", filter_="duration <")),
        (400, "", lambda: api.ask("search_by_clip", body=clip(b"no video"))),
        (422, "k is", lambda: api.ask("search", q="a", k=0)),
        (422, "q is", lambda: api.ask("search", q="")),
        (422, "t is", lambda: api.ask("similar_moments", "/none", t=-1.0)),
        (404, "The index has no such video", lambda: api.ask("get_video", "/none")),
        (404, "The index has no such video", lambda: api.ask("similar_moments", "/none")),
        (404, "The index has no such video", lambda: api.ask("get_thumbnail", "/none")),
    ]
    for status, sentence, call in failures:
        problem = call()
        assert (problem.status, problem.detail[: len(sentence)]) == (status, sentence), problem
        assert problem.title
        assert problem.detail.strip()
