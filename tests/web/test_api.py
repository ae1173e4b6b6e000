"""Tests for clip4clip.web.api: what each address answers, over the index of the drawn clips."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from constants import DEMO_MODEL
from page_client import address

from clip4clip import FilterError, IndexUnavailableError, InputValueError, VideoIndexError, __version__
from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex

pytest.importorskip("fastapi")


def names(answer: Any) -> list[str]:
    """Return the file names of the moments of an answer."""
    assert answer.status_code == 200, answer.text
    return [moment["name"] for moment in answer.json()["moments"]]


def test_a_text_finds_the_moment_that_it_describes(library_client: Any, easy: tuple[str, str], library: Path) -> None:
    caption, name = easy
    answer = library_client.get("/api/search", params={"q": caption})
    assert names(answer)[0] == name
    first, path = answer.json()["moments"][0], str(library / "clips" / name)
    assert (first["id"], first["video"], first["path"], first["start"]) == (path, path, path, None)
    assert first["modified"] == pytest.approx((library / "clips" / name).stat().st_mtime)
    assert first["duration"] > 0
    scores = [moment["score"] for moment in answer.json()["moments"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 12


def test_pages_of_results_join_to_the_whole_result(library_client: Any) -> None:
    everything = library_client.get("/api/search", params={"q": "a red square", "k": 25})
    pieces: list[str] = []
    for offset, has_more in ((0, True), (10, True), (20, False)):
        answer = library_client.get("/api/search", params={"q": "a red square", "k": 10, "offset": offset})
        assert (answer.json()["offset"], answer.json()["has_more"]) == (offset, has_more)
        pieces += names(answer)
    assert pieces == names(everything)
    copies = [copy["name"] for moment in everything.json()["moments"] for copy in moment["copies"]]
    assert len({*pieces, *copies}) == len([*pieces, *copies]) == 25


def test_copies_of_a_moment_are_folded_into_it(library_client: Any, nasty_name: str) -> None:
    moments = library_client.get("/api/search", params={"q": "a red square", "k": 25}).json()["moments"]
    [folded] = [
        moment for moment in moments if nasty_name in (moment["name"], *(copy["name"] for copy in moment["copies"]))
    ]
    assert len(folded["copies"]) == 1
    assert folded["copies"][0]["score"] == pytest.approx(folded["score"])


def test_a_smallest_score_leaves_the_rest_out(library_client: Any) -> None:
    moments = library_client.get("/api/search", params={"q": "a red square", "k": 25}).json()["moments"]
    third = moments[2]["score"]
    answer = library_client.get("/api/search", params={"q": "a red square", "k": 25, "min_score": third})
    assert answer.json()["moments"] == moments[:3]
    assert not answer.json()["has_more"]


def test_a_filter_limits_what_is_found_and_listed(library_client: Any, library: Path, nasty_name: str) -> None:
    condition = f'path like "%/{nasty_name[:4]}%"'
    assert names(library_client.get("/api/search", params={"q": "x", "filter": condition})) == [nasty_name]
    videos = library_client.get("/api/videos", params={"filter": condition}).json()["videos"]
    assert [video["path"] for video in videos] == [str(library / "clips" / nasty_name)]


@pytest.mark.parametrize("path", ["/api/search?q=x", "/api/videos?k=1", "/api/videos/{}/similar?k=1"])
def test_an_invalid_filter_is_explained(library_client: Any, library: Path, easy: tuple[str, str], path: str) -> None:
    path = path.format(address("", library / "clips" / easy[1])[2:])
    for text, sentence in (
        ("duration <", "the filter is invalid at character 11"),
        ("duratoin < 5", "the filter has the field duratoin, but no video in the index does: did you mean duration?"),
        ('duration < "long"', "duration"),
        ("a) or (b", "the filter is invalid"),
    ):
        answer = library_client.get(
            path, params=dict([*[each.split("=") for each in path.split("?")[1].split("&")], ["filter", text]])
        )
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
        assert sentence in answer.json()["detail"]


def test_videos_are_listed_by_name_and_by_date(library_client: Any, library: Path) -> None:
    files = [*(library / "clips").iterdir()]
    listed = library_client.get("/api/videos").json()["videos"]
    assert [video["name"] for video in listed] == sorted((file.name for file in files), key=str.casefold)
    dates = [video["modified"] for video in library_client.get("/api/videos?order=date").json()["videos"]]
    assert dates == sorted(dates, reverse=True)
    page = library_client.get("/api/videos?offset=20&k=4").json()
    assert (page["videos"], page["offset"], page["has_more"]) == (listed[20:24], 20, True)
    assert not library_client.get("/api/videos?offset=24").json()["has_more"]
    assert library_client.get("/api/videos?offset=100000").json()["videos"] == []  # a list has no end, unlike a search


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """A client over an index of a video that is cut and of a URL, without files; and the id of the video."""
    from starlette.testclient import TestClient

    from clip4clip.web.app import make_app

    folder = tmp_path_factory.mktemp("cut")
    vectors = np.eye(128, dtype=np.float32)
    model = {"model": DEMO_MODEL, "fingerprint": "0" * 32}
    video = "/v/a #1 50%.mp4"
    rows = [
        model
        | {"id": f"{video}#t={10.0 * n},{10.0 * n + 10}", "video": video, "path": video, "vector": vectors[n]}
        | {"start": 10.0 * n, "end": 10.0 * n + 10, "duration": 3725.0, "mtime": 5 * 10**9 + n, "camera": "front"}
        for n in (2, 0, 1)
    ]
    url = "https://example.org/b.mp4?x=1"
    index = VideoIndex(folder / "videos.db")
    index.add([*rows, model | {"id": url, "path": url, "vector": vectors[0] * 0.6 + vectors[9] * 0.8}])
    return TestClient(make_app(index, folder)), video


def test_a_video_has_its_segments_in_order(cut: tuple[Any, str]) -> None:
    client, video = cut
    for name in (video, f"{video}#t=10.0,20.0"):  # a segment names its video
        found = client.get(address("api/videos", name)).json()
        assert (found["id"], found["name"], found["segment_count"]) == (video, "a #1 50%.mp4", 3)
        assert found["fields"] == {"camera": "front"}
        assert [segment["time"] for segment in found["segments"]] == ["0:00–0:10", "0:10–0:20", "0:20–0:30"]
        assert found["segments"][1]["thumbnail"] == address("thumbnails", video) + "?t=15.000"
    url = client.get(address("api/videos", "https://example.org/b.mp4?x=1")).json()
    assert (url["segments"], url["segment_count"], url["thumbnail"]) == ([], 0, None)
    assert url["media"] == "https://example.org/b.mp4?x=1"


def test_similar_moments_leave_out_the_video_itself(cut: tuple[Any, str]) -> None:
    client, video = cut
    for parameters in ({}, {"t": 5}):
        answer = client.get(address("api/videos", video) + "/similar", params=parameters)
        assert names(answer) == ["b.mp4"]
    [moment] = client.get(address("api/videos", "https://example.org/b.mp4?x=1") + "/similar").json()["moments"]
    assert (moment["video"], moment["time"], moment["score"]) == (video, "0:00–0:10", pytest.approx(0.6))
    assert moment["media"] == address("media", video)
    assert moment["clip"] == address("clips", video) + "?start=0.000&end=10.000"
    assert moment["strip"] == address("strips", video) + "?start=0.000&end=10.000"
    late = client.get(address("api/videos", video) + "/similar?t=4000")
    assert (late.status_code, "3725" in late.json()["detail"] or "3,725" in late.json()["detail"]) == (400, True)


@pytest.mark.parametrize("path", ["", "/similar", "/similar?t=5"])
def test_an_unknown_id_is_not_found(library_client: Any, path: str) -> None:
    for name in ("x", "../x", "/etc/passwd", "x' or id != '", "%00", "\0", "é", "a" * 5000):
        answer = library_client.get(address("api/videos", name) + path)
        assert answer.status_code == 404, (name, answer.text)
        assert answer.json()["detail"] == "The index has no such video. It may have been removed or renamed."
    assert library_client.get("/api/videos/%FF" + path).status_code == 422


def test_a_text_is_embedded(library_client: Any, library: Path) -> None:
    answer = library_client.post("/api/embed", json={"text": "a red square"}).json()
    assert (len(answer["vector"]), answer["model"]) == (128, DEMO_MODEL)
    assert np.linalg.norm(answer["vector"]) == pytest.approx(1)
    with VideoIndex(library / "videos.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        hits = index.search(vector=np.float32(answer["vector"]), limit=12)
    found = library_client.get("/api/search", params={"q": "a red square"}).json()["moments"]
    assert [moment["id"] for moment in found] == [hit.id for hit in hits]


def test_the_status_says_what_can_be_searched(library_client: Any) -> None:
    status = library_client.get("/api/status").json()
    assert (status["videos"], status["vectors"], status["model"]) == (25, 25, DEMO_MODEL)
    assert status["version"] == __version__
    assert {"python", "torch", "fastapi"} <= status["versions"].keys()


def test_videos_of_another_process_appear_without_a_restart(library: Path, tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    from clip4clip.web.app import make_app

    shutil.copy(library / "videos.db", tmp_path / "videos.db")
    vector = np.eye(1, 128, dtype=np.float32)[0]
    with (
        VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec(DEMO_MODEL)) as index,
        VideoIndex(tmp_path / "videos.db") as other,
    ):
        client = TestClient(make_app(index, tmp_path))
        assert client.get("/api/status").json()["videos"] == 25
        assert other.model is not None
        row = {"id": "new", "path": "/new.mp4", "vector": vector, "model": other.model.model}
        other.add([row | {"fingerprint": other.model.fingerprint}])
        assert client.get("/api/status").json()["videos"] == 26
        assert client.get("/api/videos/new").status_code == 200
        assert "new.mp4" in names(client.get("/api/search?q=x&k=26"))
        other.delete(["new"])
        assert client.get("/api/videos/new").status_code == 404


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/api/search", "q is missing: it is required."),
        ("/api/search?q=", "q is '': it should have at least 1 character."),
        (f"/api/search?q={'x' * 2001}", "should have at most 2000 characters."),
        ("/api/search?q=x&k=0", "k is '0': it should be greater than or equal to 1."),
        ("/api/search?q=x&k=101", "k is '101': it should be less than or equal to 100."),
        ("/api/search?q=x&k=1e3", "k is '1e3': it should be a valid integer"),
        (f"/api/search?q=x&k={'9' * 5000}", "exceeded maximum size"),
        ("/api/search?q=x&offset=1001", "offset is '1001': it should be less than or equal to 1000."),
        ("/api/videos?offset=10000001", "offset is '10000001': it should be less than or equal to 10000000."),
        ("/api/search?q=x&per_video=some", "per_video is 'some': it should be a valid integer"),
        ("/api/search?q=x&min_score=nan", "min_score is 'nan': it should be a finite number."),
        ("/api/search?q=x&min_score=-inf", "min_score is '-inf'"),
        ("/api/videos/x/similar?t=nan", "t is 'nan': it should be a finite number."),
        ("/api/videos/x/similar?t=-1", "t is '-1': it should be greater than or equal to 0."),
        ("/api/videos?order=size", "order is 'size': it should be 'name' or 'date'."),
    ],
)
def test_an_invalid_parameter_is_named_with_its_value(shared_client: Any, path: str, sentence: str) -> None:
    answer = shared_client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["status"] == 422
    assert sentence in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 400


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"null", b"[1]", b"[" * 60_000, b"NaN", b"\xff\xfe"),
        *(rb'{"text": "\ud800"}', b'{"text": NaN}', b'{"text": ""}', b'{"text": 1e999}'),
        json.dumps({"text": "x" * 2001}).encode(),
    ],
)
def test_an_invalid_body_is_explained(shared_client: Any, body: bytes) -> None:
    answer = shared_client.post("/api/embed", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.json()["detail"]) < 400


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (InputValueError("a text has too many words"), 400, "a text has too many words."),
        (FilterError("the filter is odd\n  x\n  ^"), 400, "the filter is odd\n  x\n  ^"),
        (VideoIndexError("the index at /srv says: no"), 500, "The server could not do this. Its log says more."),
        (
            IndexUnavailableError("/srv/videos.db"),
            503,
            "The index does not answer at the moment. Try again in a minute.",
        ),
        (OSError("/srv is gone"), 500, "The server could not do this. Its log says more."),
        (RecursionError(), 500, "The server could not do this. Its log says more."),
    ],
)
@pytest.mark.parametrize("path", ["/api/search?q=x", "/api/videos/x", "/media/x", "/api/videos"])
def test_a_visitor_reads_no_paths_and_traces_of_the_server(
    shared_client: Any,
    empty_index: Any,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    error: Exception,
    status: int,
    detail: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    for name in ("search", "get", "videos", "check_filter"):
        monkeypatch.setattr(empty_index, name, fail)
    answer = shared_client.get(path)
    if isinstance(error, InputValueError) and path.endswith("/x"):  # the id is not a valid key of this collection
        status, detail = 404, "The index has no such video. It may have been removed or renamed."
    assert (answer.status_code, answer.json()["detail"]) == (status, detail)
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_address_that_does_not_exist_is_a_problem_too(shared_client: Any) -> None:
    for method, path, status in (
        ("GET", "/config", 404),
        ("GET", "/gradio_api/info", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/api/", 404),
        ("POST", "/api/status", 405),
        ("DELETE", "/api/videos/x", 405),
        ("PROPFIND", "/", 405),
    ):
        answer = shared_client.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_a_method_that_an_address_does_not_take_is_answered_with_those_that_it_takes(shared_client: Any) -> None:
    for path, methods in (("/api/search", "GET, POST"), ("/media/x", "GET, HEAD"), ("/", "GET, HEAD")):
        assert shared_client.delete(path).headers["allow"] == methods
