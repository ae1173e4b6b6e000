"""The page in a real browser: headless Chromium through playwright, over an index of the drawn clips."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import numpy as np
import pytest
from servers import PageServer, ask, posted

from clip4clip import CacheError, Clip4clipError, IndexUnavailableError, InputValueError, VideoIndexError
from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex
from clip4clip.web.page import _sentence
from clip4clip.weights.identity import identify

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=120_000)
DEMO = "clip_vit_tiny_demo"
KINDS = ("video", "poster")
RESULTS = ".hits li"
NASTY = '<img src=x onerror=alert(1)> "it\'s" #1 & 100%.mp4'


@pytest.fixture(scope="module")
def library(drawings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``clips``, which the index ``videos.db`` names, and files that it does not."""
    folder = tmp_path_factory.mktemp("library")
    shutil.copytree(drawings / "eval", folder / "clips")
    first = min((folder / "clips").iterdir())
    shutil.copy(first, folder / "clips" / NASTY)
    shutil.copy(first, folder / "secret.mp4")
    (folder / "secret.txt").write_text("secret")
    (folder / "broken.mp4").write_text("secret")
    with VideoIndex(folder / "videos.db", encoder=EncoderSpec(DEMO)) as index:
        assert index.sync(folder / "clips").added == 25
    return folder


@pytest.fixture(scope="module")
def page(library: Path) -> Iterator[PageServer]:
    with PageServer(str(library / "videos.db")) as running:
        yield running


@pytest.fixture
def tab(browser: sync_api.Browser) -> Iterator[sync_api.Page]:
    with browser.new_page(viewport={"width": 1200, "height": 900}) as opened:
        opened.set_default_timeout(20_000)
        yield opened


def test_a_sentence_brings_the_right_clip_first_and_it_plays(
    page: PageServer, tab: sync_api.Page, easy: tuple[str, str]
) -> None:
    caption, name = easy
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.url)
    ask(tab, caption)
    first = tab.locator(RESULTS).first
    expect(first).to_contain_text(name)
    expect(tab.locator(RESULTS)).to_have_count(12)
    status = tab.locator("#status").inner_text()
    assert re.search(rf"12 of 25 videos for “{re.escape(caption)}”, in \d+ ms", status)
    scores = [float(each) for each in tab.locator(".hits .score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    video = first.locator("video")
    video.evaluate("video => video.play()")
    tab.wait_for_function("video => video.currentTime > 0.2", arg=video.element_handle())
    assert video.evaluate("video => [video.videoWidth, video.error]") == [128, None]
    # Its picture before it plays is one of its own.
    poster = video.get_attribute("poster")
    assert page.get(f"/{poster}")[1][:3] == b"\xff\xd8\xff"
    # Nothing is fetched from anywhere else: it works without a network, and tells nobody.
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {page.url.split("/")[2]}


def test_a_link_carries_the_query(page: PageServer, tab: sync_api.Page, easy: tuple[str, str]) -> None:
    caption, name = easy
    tab.goto(page.url)
    ask(tab, caption)
    expect(tab.locator(RESULTS).first).to_contain_text(name)
    assert tab.url == f"{page.url}?q={quote(caption).replace('%20', '+')}"
    link = tab.get_by_role("link", name="link to this search").get_attribute("href")
    tab.goto(page.url)
    expect(tab.locator(RESULTS)).to_have_count(0)
    tab.goto(page.url + str(link))
    expect(tab.locator(RESULTS).first).to_contain_text(name)
    expect(tab.get_by_label("What the video shows")).to_have_value(caption)


def test_a_clip_of_ones_own_finds_itself_and_is_not_kept(page: PageServer, tab: sync_api.Page, library: Path) -> None:
    clip = sorted((library / "clips").glob("0-*.mp4"))[5]
    tab.goto(page.url)
    tab.locator("input[type=file]").set_input_files(clip)
    first = tab.locator(RESULTS).first
    expect(first).to_contain_text(clip.name)
    expect(first).to_contain_text("1.000")
    expect(tab.locator("#status")).to_contain_text("for the clip")
    folders = list(Path(os.environ.get("TMPDIR", "/tmp")).glob("clip4clip-page-*"))
    assert [path for folder in folders for path in folder.rglob("*") if path.is_file()] == []
    tab.locator("input[type=file]").set_input_files(library / "broken.mp4")
    expect(tab.get_by_role("alert")).to_contain_text("That did not work: broken.mp4 ")
    expect(tab.locator(RESULTS)).to_have_count(0)


def test_it_is_usable_by_keyboard_alone(page: PageServer, tab: sync_api.Page, easy: tuple[str, str]) -> None:
    caption, name = easy
    tab.goto(page.url)
    expect(tab.get_by_label("What the video shows")).to_be_focused()
    tab.keyboard.type(caption)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent").strip() == "Search"
    tab.keyboard.press("Enter")
    expect(tab.locator(RESULTS).first).to_contain_text(name)
    reached = []
    for _ in range(6):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.tagName"))
    assert "VIDEO" in reached
    assert tab.locator("#status [role=status]").count() == 1


def test_it_fits_a_phone(page: PageServer, browser: sync_api.Browser, easy: tuple[str, str]) -> None:
    with browser.new_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True) as phone:
        phone.goto(page.url)
        ask(phone, easy[0])
        expect(phone.locator(RESULTS).first).to_contain_text(easy[1])
        assert phone.evaluate("document.documentElement.scrollWidth") <= 360
        for place in ("#query", "#go", "#clip", f"{RESULTS} video"):
            box = phone.locator(place).first.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360


def test_names_and_queries_are_text_and_no_html(page: PageServer, tab: sync_api.Page, library: Path) -> None:
    alerts: list[str] = []
    tab.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    tab.goto(page.url)
    tab.locator("input[type=file]").set_input_files(library / "secret.mp4")  # the same clip as the nasty one's
    card = tab.locator(RESULTS).filter(has_text=NASTY)
    expect(card).to_have_count(1)
    video = card.locator("video")
    video.evaluate("video => video.play()")
    tab.wait_for_function("video => video.currentTime > 0", arg=video.element_handle())
    ask(tab, "<img src=x onerror=alert(2)>")
    expect(tab.locator("#status")).to_contain_text("<img src=x onerror=alert(2)>")
    assert alerts == []


def test_an_empty_query_and_one_that_is_too_long_are_answered(page: PageServer, tab: sync_api.Page) -> None:
    tab.goto(page.url)
    ask(tab, "   ")
    expect(tab.locator("#status")).to_contain_text("Type what the video shows")
    expect(tab.locator(RESULTS)).to_have_count(0)
    tab.goto(f"{page.url}?q={'a' * 2001}")  # the box itself takes no more than 2000
    expect(tab.get_by_role("alert")).to_have_text("That is longer than 2000 characters.")
    expect(tab.locator(RESULTS)).to_have_count(0)


def test_an_index_without_videos_has_no_results(tmp_path: Path, browser: sync_api.Browser) -> None:
    with VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec(DEMO)) as index:
        index.create()
    with PageServer(str(tmp_path / "videos.db")) as running, browser.new_page() as tab:
        tab.goto(running.url)
        ask(tab, "a red square")
        expect(tab.locator("#status")).to_contain_text("No videos were found for “a red square”: the index has 0.")
        assert "Traceback" not in running.stop()


def test_nothing_can_be_fetched_that_the_index_does_not_name(page: PageServer, library: Path) -> None:
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
    # A clip that the index names is had by its id alone, and not by Gradio's own door.
    assert page.get(f"/gradio_api/file={clip}")[0] >= 400
    assert page.get("/library/video?id=x%27%20or%20id%20!=%20%27")[0] == 404
    assert page.get("/library/video?id=x%22]%20or%20id%20not%20in%20[%22")[0] == 404
    assert page.get("/library/video")[0] == 404


def test_a_password_is_asked_for_before_anything_else(library: Path, tmp_path: Path) -> None:
    shutil.copytree(library / "videos.db", tmp_path / "videos.db")
    right = "Basic " + base64.b64encode("ann:s3cret: é".encode()).decode()
    with PageServer(str(tmp_path / "videos.db"), "--user", "ann", "--password", "s3cret: é") as running:
        for path in ("/", "/library/video?id=x", "/gradio_api/info", "/config"):
            assert running.get(path)[0] == 401
            assert running.get(path, Authorization="Basic " + base64.b64encode(b"ann:wrong").decode())[0] == 401
        assert running.get("/", Authorization=right)[0] == 200
        assert running.get("/library/video?id=x", Authorization=right)[0] == 404


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{}\n#EXT-X-ENDLIST\n"


def test_no_other_door_of_gradio_is_open(page: PageServer, library: Path) -> None:
    # Behind the first of them ffmpeg runs, which a playlist makes read whatever file it names.
    form = posted("video", PLAYLIST.format(library / "secret.mp4"))
    for door in ("process_recording", "vibe-edit", "queue/join", "call/by_text", "stream/x", "cancel", "reset"):
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(f"{page.url}gradio_api/{door}", *form))
        assert (refused.value.code, refused.value.read()) == (404, b"there is nothing here")
        refused.value.close()
    for door in ("monitoring", "gradio_api/info", "gradio_api/openapi.json", "gradio_api/proxy=http://127.0.0.1"):
        assert page.get(f"/{door}")[0] == 404


def test_no_file_and_no_address_is_read_that_a_visitor_names(page: PageServer, library: Path) -> None:
    functions = [one["id"] for one in json.loads(page.get("/config")[1])["dependencies"]]
    for path in ("/dev/zero", str(library / "secret.mp4"), page.url + "library/video?id=x", "/tmp", "\0", None):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for number in functions:
            for data in ([file], [[file]], [{"value": file}]):
                body = json.dumps({"fn_index": number, "data": data, "session_hash": "x"}).encode()
                request = Request(f"{page.url}gradio_api/run/predict", body, {"Content-Type": "application/json"})
                with pytest.raises(HTTPError) as refused:
                    urlopen(request, timeout=120)
                assert (refused.value.code, refused.value.read()) == (400, b"that is not understood")
                refused.value.close()
    for body in (b"{", b"[" * 5000, b'{"data": ["' + b"x" * 100_000 + b'"]}'):
        with pytest.raises(HTTPError) as refused:
            urlopen(
                Request(f"{page.url}gradio_api/run/predict", body, {"Content-Type": "application/json"}), timeout=120
            )
        assert refused.value.code == 400
        refused.value.close()
    assert page.get("/")[0] == 200


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InputValueError("a video has more than 77 frames"), "That did not work: a video has more than 77 frames"),
        (CacheError("/home/me/graph.onnx is gone"), "The search failed. The log of the server says more"),
        (VideoIndexError("the index at /srv says: no"), "The search failed. The log of the server says more"),
        (
            IndexUnavailableError("/srv/videos.db"),
            "The index does not answer at the moment. Please try again in a minute",
        ),
    ],
)
def test_a_visitor_is_not_told_where_things_lie(error: Clip4clipError, told: str) -> None:
    assert _sentence(error).removesuffix(".") == told


def test_only_videos_are_handed_out_whatever_the_index_names(library: Path, tmp_path: Path) -> None:
    demo = identify(None, DEMO)
    paths = ["/etc/passwd", str(library / "secret.txt"), "secret.mp4", "x" * 5000 + ".mp4", str(library / "secret.mp4")]
    with VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec(DEMO)) as index:
        vector = np.eye(1, 128, dtype=np.float32)[0]
        index.add({"id": path, "path": path, "vector": vector, **asdict(demo)} for path in paths)
    with PageServer(str(tmp_path / "videos.db")) as running:
        statuses = [running.get(f"/library/{kind}?id={quote(path, safe='')}")[0] for path in paths for kind in KINDS]
        assert statuses == [404] * 8 + [200] * 2
        assert running.get("/library/video?id=%01")[0] == 404
        assert "Traceback" not in running.stop()


def test_whoever_does_not_read_on_cannot_keep_the_page_from_stopping(library: Path, tmp_path: Path) -> None:
    with (tmp_path / "long.mp4").open("wb") as file:
        file.truncate(1 << 30)
    demo = identify(None, DEMO)
    row = {"id": "long", "path": str(tmp_path / "long.mp4"), "vector": np.eye(1, 128, dtype=np.float32)[0]}
    with VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec(DEMO)) as index:
        index.add([row | asdict(demo)])
    with PageServer(str(tmp_path / "videos.db")) as running:
        host, port = running.url.removeprefix("http://").rstrip("/").split(":")
        with socket.create_connection((host, int(port))) as reader:
            reader.sendall(b"GET /library/video?id=long HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert reader.recv(1000).startswith(b"HTTP/1.1 200")
            assert "Traceback" not in running.stop(signal.SIGTERM)


def test_it_listens_on_ipv6_too(library: Path, tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    shutil.copytree(library / "videos.db", tmp_path / "videos.db")
    with PageServer(str(tmp_path / "videos.db"), "--host", "::1") as running:
        assert running.url.startswith("http://[::1]:")
        assert running.get("/")[0] == 200


def test_a_query_that_comes_at_once_is_answered(
    page: PageServer, browser: sync_api.Browser, easy: tuple[str, str]
) -> None:
    for _ in range(8):
        with browser.new_page() as fresh:
            fresh.goto(page.url)
            ask(fresh, easy[0])
            expect(fresh.locator(RESULTS).first).to_contain_text(easy[1])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_what_was_sent_and_not_asked_about_goes_with_the_page(
    how: int, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(library / "videos.db", tmp_path / "videos.db")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with PageServer(str(tmp_path / "videos.db")) as running:
        urlopen(Request(f"{running.url}gradio_api/upload", *posted("files", "clip"))).close()
        assert list((tmp_path / "tmp").rglob("a.mp4"))
        assert "Traceback" not in running.stop(how)
    assert [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()] == []


def test_one_video_plays_at_a_time(page: PageServer, tab: sync_api.Page, easy: tuple[str, str]) -> None:
    tab.goto(page.url)
    ask(tab, easy[0])
    alone = "at => [...document.querySelectorAll('.hits video')].every((one, place) => one.paused === (place !== at))"
    for place in (0, 1):
        tab.locator(".hits .play").nth(place).click()
        tab.wait_for_function(alone, arg=place)
    assert tab.evaluate("document.activeElement.tagName") == "VIDEO"


def test_another_website_can_neither_read_nor_send(
    page: PageServer, browser: sync_api.Browser, library: Path, tmp_path: Path
) -> None:
    asked = """async page => {
        const form = new FormData(), tried = {}, image = new Image();
        form.append('files', new File(['x'], 'a.mp4'));
        for (const [path, options] of [['config', {}], ['gradio_api/upload', {method: 'POST', body: form}]])
            tried[path] = await fetch(page + path, {mode: 'no-cors', ...options}).then(() => 'read', () => 'refused');
        tried.image = await new Promise(done => {
            image.onload = () => done('read');
            image.onerror = () => done('refused');
            image.src = page + 'static/img/logo.svg';
        });
        return tried;
    }"""
    shutil.copytree(library / "videos.db", tmp_path / "videos.db")
    here = page.url.replace("127.0.0.1", "localhost")  # to a browser another site than 127.0.0.1
    with PageServer(str(tmp_path / "videos.db")) as other, browser.new_page(bypass_csp=True) as tab:
        tab.goto(here)
        answers = tab.evaluate(asked, here)
        assert answers == {"config": "read", "gradio_api/upload": "read", "image": "read"}
        answers = tab.evaluate(asked, other.url)
        assert answers == {"config": "refused", "gradio_api/upload": "refused", "image": "refused"}
        # A link to a search is followed from anywhere.
        tab.evaluate("url => { location.href = url; }", f"{other.url}?q=x")
        expect(tab.locator(RESULTS)).to_have_count(12)
