"""Tests for the page, clip4clip/web/static, in a real browser: headless Chromium, over an index of drawn videos."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import av
import pytest
from constants import DEMO_MODEL
from servers import HttpServer, PageServer, Response

from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex
from clip4clip.training.drawing import draw_long
from clip4clip.training.scenes import describe, long_videos
from clip4clip.training.synthetic import write_clip

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
TIMEOUT = 60_000  # milliseconds
expect.set_options(timeout=TIMEOUT)

RESULT = "#results > li"
FOLDER = "clips of 100% \"friends' & co_"
LONG_NAME = f"{'a long name that somebody wrote in full, ' * 4}2025-06-01.mp4"
GONE = "gone.mp4"


class Site(NamedTuple):
    """A page and what can be found on it.

    Attributes:
        url: its address.
        folder: folder of the videos.
        moments: caption, start and end of the moments of the video ``long.mp4``.
    """

    url: str
    folder: Path
    moments: list[tuple[str, float, float]]


@pytest.fixture(scope="module")
def site(drawings: Path, nasty_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page over 23 clips and a video of 71 seconds. No browser plays ``old.avi``, and ``gone.mp4`` has gone."""
    folder = tmp_path_factory.mktemp("site") / "videos"
    clips = shutil.copytree(drawings / "eval", folder / FOLDER)
    first, second, third, fourth = sorted(clips.iterdir())[:4]
    first.rename(folder / nasty_name)
    second.rename(clips / LONG_NAME)
    third.rename(folder / GONE)
    _write_avi(fourth, folder / "old.avi")
    fourth.unlink()
    (clips / "0-000014.mp4").unlink()  # to the demo model, a copy of another one
    (scenes,) = long_videos(1, seed=0, held_out=True, seconds=60)
    moments = [(describe(moment.scene, random), moment.start, moment.end) for moment, random in scenes]
    write_clip(draw_long(scenes), folder / "long.mp4")
    uri = folder.parent / "videos.db"
    with VideoIndex(uri, encoder=EncoderSpec(DEMO_MODEL)) as index:
        assert index.sync(folder).added == 24
    (folder / GONE).unlink()
    with PageServer(str(uri)) as server:
        yield Site(server.url, folder, moments)


def _write_avi(source: Path, target: Path) -> None:
    """Re-encode a clip as MPEG-4 in AVI, which browsers do not play."""
    with av.open(str(source)) as clip, av.open(str(target), "w") as file:
        stream = file.add_stream("mpeg4", rate=8)
        stream.height = stream.width = 128
        stream.pix_fmt = "yuv420p"
        for frame in clip.decode(video=0):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")))
        file.mux(stream.encode(None))


@pytest.fixture
def open_tab(browser: sync_api.Browser, site: Site) -> Iterator[Callable[..., sync_api.Page]]:
    """``(address="", **options)`` to a tab with the page.

    At the end, no script must have failed, and nothing must have been asked of another host or blocked by the
    Content-Security-Policy.
    """
    contexts, problems, hosts = [], [], set()

    def open_tab(address: str = "", width: int = 1200, height: int = 900, **options: Any) -> sync_api.Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(TIMEOUT)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        tab.on("console", lambda message: problems.append(message.text) if "Security" in message.text else None)
        tab.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        tab.goto(site.url + address)
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    assert problems == []
    assert hosts <= {urlsplit(site.url).netloc, ""}  # blob: has no host


def ask(tab: sync_api.Page, query: str) -> None:
    """Type a query and send it."""
    tab.get_by_label("What the video shows").fill(query)
    tab.keyboard.press("Enter")


def wait_for_player(tab: sync_api.Page, condition: str) -> None:
    """Wait until the player ``plays``, ``stands``, or is beyond a number of seconds.

    The page's Content-Security-Policy forbids ``wait_for_function``.
    """
    tab.evaluate(
        """([condition, deadline]) => new Promise((resolve, reject) => {
            const player = document.getElementById('player');
            const holds = {
                plays: () => player.currentTime > 0 && !player.paused,
                stands: () => player.paused,
            }[condition] ?? (() => player.currentTime > Number(condition));
            const look = () => holds() ? resolve() : Date.now() > deadline
                ? reject(`${condition}: the player is at ${player.currentTime}`) : setTimeout(look, 20);
            look();
        })""",
        [condition, 1000 * time.time() + TIMEOUT],
    )


def fields_of(tab: sync_api.Page) -> dict[str, str]:
    """Return the fields of the query in the address bar."""
    return {name: values[0] for name, values in parse_qs(urlsplit(tab.url).query).items()}


def change_answers(tab: sync_api.Page, pattern: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON that the server answers to matching requests, in place."""

    def answer(route: sync_api.Route) -> None:
        response = route.fetch()
        body = response.json()
        change(body)
        route.fulfill(response=response, body=json.dumps(body))

    tab.route(pattern, answer)


# Searching and playing


def test_a_sentence_finds_its_moment_and_plays_it_there(open_tab: Callable[..., sync_api.Page], site: Site) -> None:
    caption, start, end = site.moments[2]
    tab = open_tab()
    searches: list[str] = []
    tab.on("request", lambda request: searches.append(request.url) if "/api/search" in request.url else None)
    expect(tab.locator("#library")).to_contain_text("24 videos")
    expect(tab.locator("#library")).to_contain_text(DEMO_MODEL)
    expect(tab.locator("#examples .picture img").first).to_have_js_property("complete", True)
    assert searches == []
    ask(tab, caption)
    first = tab.locator(RESULT).first
    expect(first.locator(".name")).to_have_text("long.mp4")
    expect(first.locator(".time")).to_have_text("0:19–0:26")
    expect(tab.locator(RESULT)).to_have_count(24)
    expect(tab.get_by_role("status").first).to_contain_text("24 moments")
    scores = [float(each) for each in tab.locator(f"{RESULT} .score").all_text_contents()]
    assert scores == sorted(scores, reverse=True)
    assert len(searches) == 1

    first.locator(".stage").click()
    wait_for_player(tab, "plays")
    player = tab.locator("#player")
    assert start - 1 < player.evaluate("player => player.currentTime") < end
    # It stops where the moment ends, and a mark shows where that is.
    player.evaluate("(player, end) => { player.currentTime = end; }", end - 1)
    wait_for_player(tab, "stands")
    assert player.evaluate("player => player.currentTime") < end + 0.5
    bar, mark = (tab.locator(selector).bounding_box() for selector in ("#marks", "#marks .current"))
    assert bar is not None
    assert mark is not None
    assert (mark["x"] - bar["x"]) / bar["width"] == pytest.approx(start / 71, abs=0.03)
    # Another moment of the video is one click away.
    tab.locator("#other-moments button").last.click()
    wait_for_player(tab, "45")
    tab.keyboard.press("Escape")
    expect(tab.locator("#viewer")).to_be_hidden()
    tab.wait_for_url(lambda url: "play=" not in url)
    assert fields_of(tab) == {"q": caption}


def test_moments_of_one_video_and_more_like_one_of_them(open_tab: Callable[..., sync_api.Page], site: Site) -> None:
    tab = open_tab()
    ask(tab, site.moments[2][0])
    card = tab.locator(RESULT).first
    card.hover()
    expect(card.locator(".strip img").first).to_have_js_property("naturalWidth", 960)
    card.get_by_role("button", name="All moments of this video").click()
    expect(tab.locator(f"{RESULT} .name").nth(5)).to_have_text("long.mp4")
    assert set(tab.locator(f"{RESULT} .name").all_text_contents()) == {"long.mp4"}
    assert fields_of(tab)["filter"] == f'video == "{site.folder / "long.mp4"}"'
    tab.go_back()
    expect(tab.locator(f"{RESULT} .name").nth(1)).not_to_have_text("long.mp4")
    card.hover()
    card.get_by_role("button", name="More like this").click()
    expect(tab.locator("#example-name")).to_have_text("like long.mp4")
    expect(tab.locator(RESULT).first).to_be_visible()
    expect(tab.locator(RESULT).filter(has_text="long.mp4")).to_have_count(0)
    assert float(fields_of(tab)["t"]) == pytest.approx(23, abs=2)


def test_the_page_is_complete_by_keyboard(open_tab: Callable[..., sync_api.Page], site: Site) -> None:
    tab = open_tab()
    expect(tab.get_by_label("What the video shows")).to_be_focused()
    tab.keyboard.type(site.moments[2][0])
    tab.keyboard.press("Enter")
    expect(tab.locator(RESULT)).to_have_count(24)
    expect(tab.locator(f"{RESULT} :is(a, button):not([tabindex='-1'])")).to_have_count(24)  # one Tab stop for each
    stages = tab.locator(f"{RESULT} .stage")
    for _ in range(10):
        tab.keyboard.press("Tab")
        if stages.first.evaluate("stage => stage === document.activeElement"):
            break
    expect(stages.first).to_be_focused()
    expect(stages.first).to_have_accessible_name("Play long.mp4, 0:19–0:26")
    expect(tab.locator(RESULT).first.locator(".strip img").first).to_be_visible()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    expect(tab.locator(RESULT).first.get_by_role("button", name="More like this")).to_be_focused()
    tab.keyboard.press("Tab")
    expect(stages.nth(1)).to_be_focused()
    tab.keyboard.press("ArrowUp")
    expect(stages.first).to_be_focused()
    tab.keyboard.press("Enter")
    wait_for_player(tab, "19")
    tab.keyboard.press("Escape")
    expect(stages.first).to_be_focused()
    tab.keyboard.press("/")
    expect(tab.get_by_label("What the video shows")).to_be_focused()


def test_a_file_finds_itself_by_the_button_and_by_a_drop(open_tab: Callable[..., sync_api.Page], site: Site) -> None:
    clip = sorted((site.folder / FOLDER).glob("0-*.mp4"))[5]
    tab = open_tab()
    with tab.expect_file_chooser() as chooser:
        tab.get_by_role("button", name="Search by a clip or an image").click()
    chooser.value.set_files(clip)
    first = tab.locator(RESULT).first
    expect(first.locator(".name")).to_have_text(clip.name)
    expect(first.locator(".score")).to_have_text("1.00")
    expect(tab.locator("#example-name")).to_have_text(clip.name)
    with av.open(str(clip)) as video:
        frame = next(video.decode(video=0)).to_image()
    frame.save(site.folder.parent / "frame.png")
    drop = """async ([bytes, name]) => {
        const files = new DataTransfer();
        files.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/png'}));
        for (const type of ['dragover', 'drop'])
            document.body.dispatchEvent(new DragEvent(type, {dataTransfer: files, bubbles: true, cancelable: true}));
    }"""
    tab.evaluate(drop, [list((site.folder.parent / "frame.png").read_bytes()), "frame.png"])
    expect(tab.locator("#example-name")).to_have_text("frame.png")
    expect(tab.locator(RESULT).first).to_be_visible()
    tab.go_back()
    expect(tab.locator("#example-name")).to_have_text(clip.name)
    expect(first.locator(".score")).to_have_text("1.00")
    broken = {"name": "broken.mp4", "mimeType": "video/mp4", "buffer": b"no video"}
    tab.locator("#clip").set_input_files(broken)  # type: ignore[arg-type]
    expect(tab.get_by_role("alert").first).to_contain_text("broken.mp4")
    expect(tab.locator(RESULT)).to_have_count(0)
    folders = list(Path(os.environ.get("TMPDIR", "/tmp")).glob("clip4clip-page-*"))
    assert [path for folder in folders for path in folder.rglob("*") if path.is_file()] == []


# Filters, order, links


def test_controls_write_the_filter_and_read_what_is_typed(open_tab: Callable[..., sync_api.Page], site: Site) -> None:
    tab = open_tab()
    ask(tab, "a red star")
    expect(tab.locator(RESULT)).to_have_count(24)
    tab.get_by_role("button", name="Filters").click()
    tab.get_by_label("Length of the video").select_option("1 to 10 minutes")
    expect(tab.locator(RESULT)).to_have_count(1)
    written = tab.get_by_label("Filter", exact=True)
    expect(written).to_have_value("60 < duration <= 600")
    folder = str(site.folder / FOLDER)
    tab.get_by_label("Length of the video").select_option("any length")
    tab.get_by_label("Folder").fill(folder)
    tab.keyboard.press("Enter")
    expect(tab.locator(f"{RESULT} .name").filter(has_text="long.mp4")).to_have_count(0)
    expect(tab.locator(RESULT)).to_have_count(20)
    written.fill(f'{written.input_value()} and modified >= "2020-02-01" and (duration < 3 or duration > 9)')
    tab.get_by_role("button", name="Apply").click()
    expect(tab.get_by_label("Changed since")).to_have_value("2020-02-01")
    expect(tab.get_by_label("Folder")).to_have_value(folder)
    expect(tab.locator(RESULT)).to_have_count(20)
    tab.get_by_label("Changed until").fill("2020-03-01")
    expect(tab.locator("#hint")).to_contain_text("Nothing matches the filter")
    written.fill("duration <")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("alert").first).to_contain_text("ilter is invalid at character")
    tab.get_by_role("button", name="Remove the filter").click()
    expect(tab.locator(RESULT)).to_have_count(24)


def test_a_filter_is_split_and_joined_without_changing_its_meaning(open_tab: Callable[..., sync_api.Page]) -> None:
    tab = open_tab()

    def call(name: str, *arguments: Any) -> Any:
        run = "async ([name, values]) => (await import('/static/filters.js'))[name](...values)"
        return tab.evaluate(run, [name, arguments])

    assert call("splitFilter", 'a == "x and y" AND (b < 1 or c) && not android') == [
        'a == "x and y"',
        "(b < 1 or c)",
        "not android",
    ]
    assert call("splitFilter", "a == 1 or b == 2 and c") == ["a == 1 or b == 2 and c"]
    assert call("writeControl", "a == 1 or b == 2", "until", "2025-06-30") == (
        '(a == 1 or b == 2) and modified <= "2025-06-30"'
    )
    assert call("writeControl", "(a) or (b)", "since", "2025-06-30") == '((a) or (b)) and modified >= "2025-06-30"'
    assert call("writeControl", "x and duration > 3600 and y", "length", "") == "x and y"
    for folder in ("/srv/a b", '/srv/100%_"x"\\y', "C:\\my videos\\new_ones", "/"):
        condition = call("inFolder", folder)
        assert call("readControl", f"duration < 60 and {condition}", "folder") == folder
    assert call("readControl", 'path like "%.mkv"', "folder") == ""
    assert call("readControl", 'path like "/srv/%/a/%"', "folder") == ""


def test_results_can_be_ordered_and_more_can_be_loaded(open_tab: Callable[..., sync_api.Page], site: Site) -> None:
    tab = open_tab("?q=a+red+star&per_video=all")
    expect(tab.locator(RESULT)).to_have_count(24)
    expect(tab.get_by_role("status").first).to_contain_text("The best 24 moments")
    tab.get_by_role("button", name="More results").click()
    expect(tab.locator(RESULT)).to_have_count(23 + len(site.moments))
    expect(tab.locator(f"{RESULT} .stage").nth(24)).to_be_focused()
    expect(tab.get_by_role("button", name="More results")).to_be_hidden()
    assert len(set(tab.locator(f"{RESULT} .name").all_text_contents())) == 24
    tab.get_by_label("Order").select_option("name")
    expect(tab.locator(f"{RESULT} .name").last).to_have_text("old.avi")
    tab.reload()
    expect(tab.locator(f"{RESULT} .name").last).to_have_text("old.avi")
    # Without a query, the videos are listed.
    tab.goto(tab.url.partition("?")[0])
    tab.get_by_role("link", name="See all 24").click()
    expect(tab.locator(RESULT)).to_have_count(24)
    expect(tab.locator(f"{RESULT} .score").first).to_have_text("")


def test_a_link_and_the_back_button_lead_to_a_search(open_tab: Callable[..., sync_api.Page], site: Site) -> None:
    tab = open_tab(permissions=["clipboard-read", "clipboard-write"])
    for caption, *_ in site.moments[2:4]:
        ask(tab, caption)
        expect(tab.get_by_label("What the video shows")).to_have_value(caption)
        expect(tab.locator(f"{RESULT} .name").first).to_have_text("long.mp4")
    expect(tab.locator(f"{RESULT} .time").first).to_have_text("0:26–0:32")
    tab.get_by_role("button", name="Link to this search").click()
    expect(tab.locator("#toast")).to_contain_text("Copied")
    link = tab.evaluate("navigator.clipboard.readText()")
    tab.locator(f"{RESULT} .stage").first.click()
    expect(tab.locator("#viewer")).to_be_visible()
    tab.get_by_role("button", name="Copy path and time").last.click()
    expect(tab.locator("#toast")).to_contain_text("long.mp4 0:26–0:32")
    assert tab.evaluate("navigator.clipboard.readText()") == f"{site.folder / 'long.mp4'} 0:26–0:32"
    tab.go_back()
    expect(tab.locator("#viewer")).to_be_hidden()
    tab.go_back()
    expect(tab.locator(f"{RESULT} .time").first).to_have_text("0:19–0:26")
    expect(tab.get_by_label("What the video shows")).to_have_value(site.moments[2][0])
    tab.go_back()
    expect(tab.get_by_role("heading", name="Find the moment")).to_be_visible()
    tab.goto(link)
    expect(tab.locator(f"{RESULT} .time").first).to_have_text("0:26–0:32")


# What can go wrong


def test_a_server_that_is_away_is_noticed_and_so_is_its_return(open_tab: Callable[..., sync_api.Page]) -> None:
    tab = open_tab()
    expect(tab.locator("#library")).to_contain_text("24 videos")
    tab.context.set_offline(True)
    ask(tab, "a red star")
    expect(tab.get_by_role("alert").first).to_contain_text("The server does not answer")
    tab.context.set_offline(False)
    expect(tab.locator(RESULT)).to_have_count(24)
    expect(tab.locator("#notice")).to_be_hidden()


def test_more_results_are_asked_for_again_after_the_server_was_away(open_tab: Callable[..., sync_api.Page]) -> None:
    tab = open_tab("?q=a+red+star&per_video=all")
    expect(tab.locator(RESULT)).to_have_count(24)
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.route("**/api/search?*", lambda route: route.abort())
    tab.get_by_role("button", name="More results").click()
    expect(tab.locator("#notice-text")).to_contain_text("The server does not answer")
    expect(tab.locator(RESULT)).to_have_count(24)
    tab.unroute("**/api/search?*")
    tab.get_by_role("button", name="Try again").click()
    expect(tab.locator("#notice")).to_be_hidden()
    expect(tab.locator("#results")).not_to_have_class("stale")
    found = tab.locator(RESULT).count()
    asked.clear()
    tab.wait_for_timeout(2500)  # longer than the time between two tries
    assert [url for url in asked if "/api/" in url] == []
    assert tab.locator(RESULT).count() == found > 24


def test_a_busy_server_leaves_the_results_that_are_there(open_tab: Callable[..., sync_api.Page]) -> None:
    tab = open_tab("?q=a+red+star&per_video=all")
    expect(tab.locator(RESULT)).to_have_count(24)
    busy = {"title": "Service Unavailable", "status": 503, "detail": "The server has too much to do."}
    tab.route("**/api/search?*", lambda route: route.fulfill(status=503, json=busy))
    tab.get_by_role("button", name="More results").click()
    expect(tab.locator("#notice-text")).to_have_text("The server has too much to do.")
    expect(tab.locator(RESULT)).to_have_count(24)
    ask(tab, "a blue star")
    expect(tab.locator("#results.stale > li")).to_have_count(24)
    expect(tab.get_by_role("button", name="More results")).to_be_hidden()
    tab.unroute("**/api/search?*")
    tab.get_by_role("button", name="Try again").click()
    expect(tab.locator("#notice")).to_be_hidden()
    expect(tab.locator("#results.stale")).to_have_count(0)


def test_a_file_is_sent_once_and_never_after_a_reload(open_tab: Callable[..., sync_api.Page], site: Site) -> None:
    tab = open_tab()
    sent: list[str] = []
    tab.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    tab.locator("#clip").set_input_files(site.folder / "long.mp4")
    expect(tab.locator("#example-name")).to_have_text("long.mp4")
    card = tab.locator(RESULT).filter(has_text="long.mp4").first
    card.locator(".stage").click()
    expect(tab.locator("#other-moments button").first).to_be_visible()
    tab.keyboard.press("Escape")
    expect(tab.locator("#viewer")).to_be_hidden()
    assert [parse_qs(urlsplit(url).query)["k"] for url in sent] == [["100"]]
    tab.reload()
    expect(tab.get_by_role("heading", name="Find the moment")).to_be_visible()
    # Another file does not take the place of the one that is gone.
    tab.locator("#clip").set_input_files(site.folder / "old.avi")
    expect(tab.locator("#example-name")).to_have_text("old.avi")
    expect(tab.locator(RESULT).first).to_be_visible()
    tab.go_back()
    expect(tab.get_by_role("heading", name="Find the moment")).to_be_visible()
    assert len(sent) == 2


def test_a_row_with_a_malformed_url_does_not_stop_the_page(open_tab: Callable[..., sync_api.Page]) -> None:
    tab = open_tab()
    change_answers(
        tab, "**/api/search?*", lambda answer: answer["moments"][1].update(path="http://[", media="http://[")
    )
    ask(tab, "a red star")
    expect(tab.locator(RESULT)).to_have_count(24)
    expect(tab.locator(f"{RESULT} .name").nth(1)).to_have_attribute("title", "http://[")


def test_a_part_of_a_list_is_called_a_part_and_goes_on_beyond_a_thousand(
    open_tab: Callable[..., sync_api.Page],
) -> None:
    tab = open_tab()

    videos: list[dict[str, Any]] = []

    def extend(answer: dict[str, Any]) -> None:
        videos.extend(answer["videos"][:1])
        answer["has_more"] = True
        answer["videos"] = [{**videos[0], "id": f"v{answer['offset']}-{n}"} for n in range(600)]

    change_answers(tab, "**/api/videos?*k=24*", extend)
    tab.get_by_role("link", name="See all").click()
    expect(tab.locator("#status")).to_have_text("The first 600 videos")
    for count in ("1,200", "1,800"):
        tab.get_by_role("button", name="More results").click()
        expect(tab.locator("#status")).to_have_text(f"The first {count} videos")
    expect(tab.get_by_role("button", name="More results")).to_be_visible()


def test_nothing_like_a_video_does_not_mean_that_the_index_is_empty(open_tab: Callable[..., sync_api.Page]) -> None:
    tab = open_tab()
    change_answers(tab, "**/similar?*", lambda answer: answer.update(moments=[], has_more=False))
    tab.locator("#examples button").first.click()
    expect(tab.locator("#hint")).to_have_text("The index has no other videos.")


def test_a_late_answer_does_not_replace_a_newer_one(open_tab: Callable[..., sync_api.Page], site: Site) -> None:
    tab = open_tab()
    held: list[sync_api.Route] = []
    tab.route("**/api/search?*late*", lambda route: held.append(route))
    ask(tab, "late")
    tab.wait_for_timeout(50)
    ask(tab, site.moments[2][0])
    expect(tab.locator(f"{RESULT} .time").first).to_have_text("0:19–0:26")
    assert len(held) == 1
    held[0].fulfill(json={"moments": [], "offset": 0, "has_more": False, "probably_here": None, "milliseconds": 1})
    tab.wait_for_timeout(100)
    expect(tab.locator(RESULT)).to_have_count(24)


def test_names_of_files_are_never_read_as_html(open_tab: Callable[..., sync_api.Page], nasty_name: str) -> None:
    tab = open_tab()
    ask(tab, '<img src=x onerror="alert(2)">')
    tab.get_by_label("Order").select_option("name")
    card = tab.locator(RESULT).filter(has=tab.get_by_text(nasty_name, exact=True))
    expect(card.locator(".picture img")).to_have_js_property("complete", True)
    card.locator(".stage").click()
    expect(tab.locator("#viewer-name")).to_have_text(nasty_name)
    wait_for_player(tab, "0")
    tab.locator("#viewer-similar").click()
    expect(tab.locator("#example-name")).to_have_text(f"like {nasty_name}")
    expect(tab.locator(RESULT).first).to_be_visible()
    tab.get_by_role("button", name="Filters").click()
    ask(tab, '"><script>alert(3)</script>')
    expect(tab.locator(RESULT)).to_have_count(24)
    assert tab.locator("img[src=x]").count() == 0


def test_videos_that_cannot_be_played_are_explained(open_tab: Callable[..., sync_api.Page]) -> None:
    tab = open_tab("?order=name")
    problem = tab.locator("#viewer-problem")
    tab.get_by_role("button", name="Play old.avi").click()
    expect(problem).to_contain_text("This browser cannot play this AVI video. Download it")
    expect(problem.locator("img")).to_have_js_property("naturalWidth", 960)
    with tab.expect_download() as download:
        problem.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "old.avi"
    tab.keyboard.press("Escape")
    tab.get_by_role("button", name=f"Play {GONE}").click()
    expect(problem).to_contain_text("has been moved or deleted")
    expect(problem.get_by_role("link", name="Download")).to_be_hidden()


def test_an_empty_index_a_doubtful_answer_and_copies_are_said(open_tab: Callable[..., sync_api.Page]) -> None:
    tab = open_tab()
    copy = {"id": "x", "video": "x", "name": "x.mp4", "path": "/srv/<b>x.mp4", "time": "0:01–0:02", "score": 0.9}

    def doubt(answer: dict[str, Any]) -> None:
        answer["probably_here"] = False
        answer["moments"][0]["copies"] = [copy, copy]

    change_answers(tab, "**/api/search?*", doubt)
    ask(tab, "a red star")
    expect(tab.locator("#hint")).to_contain_text("Probably not here")
    tab.get_by_role("button", name="+ 2 copies").click()
    expect(tab.locator(".copies li").first).to_contain_text("/srv/<b>x.mp4")
    change_answers(tab, "**/api/status", lambda status: status.update(videos=0, vectors=0))
    change_answers(tab, "**/api/videos?*", lambda answer: answer.update(videos=[], has_more=False))
    change_answers(tab, "**/api/search?*", lambda answer: answer.update(moments=[], has_more=False))
    ask(tab, "a blue star")
    expect(tab.locator("#status")).to_have_text("Nothing was found for “a blue star”")
    expect(tab.locator("#hint")).to_contain_text("The index has no videos yet")
    tab.get_by_role("link", name="start page").click()
    expect(tab.locator("#library")).to_contain_text("The index has no videos yet")


# Looks

# Returns the texts whose contrast is below WCAG AA, with the contrast. Half-transparent grounds are laid over white and
# over black, as a picture may be behind them; the lower contrast counts. Disabled controls are exempt.
LOW_CONTRAST = """() => {
    const parse = text => {
        const parts = text.match(/[\\d.]+/g).map(Number);
        return parts.length === 4 ? parts : [...parts, 1];
    };
    const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
    const light = colour => {
        const shares = colour.slice(0, 3).map(c => c / 255);
        const linear = shares.map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const contrast = (one, two) => {
        const [low, high] = [light(one), light(two)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const low = [];
    const measure = (element, text, pseudo) => {
        if (!text.trim() || !element.checkVisibility({opacityProperty: true, visibilityProperty: true})) return;
        if (element.matches(':disabled')) return;
        const style = getComputedStyle(element, pseudo), grounds = [];
        for (let each = element; each; each = each.parentElement) {
            const ground = parse(getComputedStyle(each).backgroundColor);
            grounds.push(ground);
            if (ground[3] === 1) break;
        }
        const least = Math.min(...[[255, 255, 255, 1], [0, 0, 0, 1]].map(base => {
            const ground = grounds.reduceRight((below, top) => over(top, below), base);
            return contrast(over(parse(style.color), ground), ground);
        }));
        const isLarge = parseFloat(style.fontSize) >= 24;
        if (least < (isLarge ? 3 : 4.5)) low.push(`${text.trim()}: ${least.toFixed(2)}`);
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) measure(walker.currentNode.parentElement, walker.currentNode.data);
    for (const field of document.querySelectorAll('[placeholder]')) measure(field, field.placeholder, '::placeholder');
    return low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_of_wcag_aa(open_tab: Callable[..., sync_api.Page], site: Site, scheme: str) -> None:
    tab = open_tab(color_scheme=scheme, reduced_motion="reduce")
    expect(tab.locator("#examples .name").first).to_be_visible()
    assert tab.evaluate(LOW_CONTRAST) == []
    assert tab.evaluate("getComputedStyle(document.querySelector('button')).transitionDuration") == "0s"
    change_answers(tab, "**/api/search?*", lambda answer: answer.update(probably_here=False))
    ask(tab, site.moments[2][0])
    expect(tab.locator("#hint")).to_be_visible()
    tab.locator(RESULT).first.hover()
    tab.get_by_role("button", name="Filters").click()
    assert tab.evaluate(LOW_CONTRAST) == []
    tab.locator(f"{RESULT} .stage").first.click()
    expect(tab.locator("#other-moments .score").first).to_be_visible()
    tab.locator("#viewer-copy").click()
    assert tab.evaluate(LOW_CONTRAST) == []
    tab.keyboard.press("Escape")
    tab.get_by_label("Filter", exact=True).fill("duration <")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("alert").first).to_be_visible()
    assert tab.evaluate(LOW_CONTRAST) == []


def test_the_page_fits_a_phone_and_shows_long_names_in_full(open_tab: Callable[..., sync_api.Page], site: Site) -> None:
    tab = open_tab(width=360, height=740, has_touch=True, is_mobile=True)

    def check_width() -> None:
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        outside = """() => [...document.querySelectorAll('body *')].filter(each => {
            const box = each.getBoundingClientRect();
            return each.checkVisibility() && !each.closest('.picture, .skip') && (box.left < 0 || box.right > 360.5);
        }).map(each => each.outerHTML.slice(0, 200))"""
        assert tab.evaluate(outside) == []

    expect(tab.locator("#examples .name").first).to_be_visible()
    check_width()
    ask(tab, site.moments[2][0])
    expect(tab.locator(RESULT)).to_have_count(24)
    tab.get_by_role("button", name="Filters").tap()
    tab.get_by_label("Folder").fill(str(site.folder / FOLDER))
    tab.get_by_role("button", name="Apply").tap()
    expect(tab.locator(RESULT)).to_have_count(20)
    name = tab.locator(f"{RESULT} .name").filter(has_text=LONG_NAME)
    name.scroll_into_view_if_needed()
    assert name.evaluate("name => name.scrollHeight <= name.clientHeight && name.scrollWidth <= name.clientWidth")
    check_width()
    name.locator("xpath=ancestor::li").locator(".stage").tap()
    expect(tab.locator("#viewer-name")).to_have_text(LONG_NAME)
    check_width()


# Other websites

# Tries to read the status and the icon of the page, and to search by a file.
ATTACK = """async page => {
    const form = new FormData(), outcome = {}, image = new Image();
    form.append('clip', new File(['x'], 'a.mp4'));
    for (const [path, options] of [['api/status', {}], ['api/search', {method: 'POST', body: form}]])
        outcome[path] = await fetch(page + path, {mode: 'no-cors', ...options}).then(() => 'read', () => 'refused');
    outcome.image = await new Promise(done => {
        image.onload = () => done('read');
        image.onerror = () => done('refused');
        image.src = page + 'static/icon.svg';
    });
    return outcome;
}"""


def test_another_website_can_neither_read_from_the_page_nor_send_to_it(site: Site, browser: sync_api.Browser) -> None:
    with HttpServer(lambda request: Response(b"<p>A website.")) as website, browser.new_page(bypass_csp=True) as tab:
        tab.set_default_timeout(TIMEOUT)
        tab.goto(site.url)
        assert set(tab.evaluate(ATTACK, site.url).values()) == {"read"}
        tab.goto(website.url.replace("127.0.0.1", "localhost"))  # to a browser, another site than 127.0.0.1
        outcome = tab.evaluate(ATTACK, site.url)
        assert outcome == {"api/status": "refused", "api/search": "refused", "image": "refused"}
        # A link to a search may be followed from anywhere.
        tab.evaluate("url => { location.href = url; }", f"{site.url}?q=x")
        expect(tab.locator(RESULT)).to_have_count(24)
