"""Tests for clip4clip.web.page in a real browser: headless Chromium, over an index of the drawn clips."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from page_client import ask
from servers import HttpServer, PageServer, Response

# The other files of this folder test the same answers without a browser.
pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=120_000)
RESULTS = ".hits li"


@pytest.fixture
def tab(browser: sync_api.Browser) -> Iterator[sync_api.Page]:
    with browser.new_page(viewport={"width": 1200, "height": 900}) as opened:
        opened.set_default_timeout(120_000)
        yield opened


def test_a_sentence_finds_its_clip_first_and_the_clip_plays(
    page: PageServer, tab: sync_api.Page, easy: tuple[str, str]
) -> None:
    caption, name = easy
    requested: list[str] = []
    tab.on("request", lambda request: requested.append(request.url))
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
    # The poster is a JPEG.
    poster = video.get_attribute("poster")
    assert page.get(f"/{poster}")[1][:3] == b"\xff\xd8\xff"
    # Nothing is fetched from another server: the page works offline.
    assert {url.split("/")[2] for url in requested if url.startswith("http")} == {page.url.split("/")[2]}


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


def test_an_uploaded_clip_finds_itself_and_is_deleted(page: PageServer, tab: sync_api.Page, library: Path) -> None:
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


def test_the_page_can_be_used_by_keyboard(page: PageServer, tab: sync_api.Page, easy: tuple[str, str]) -> None:
    caption, name = easy
    tab.goto(page.url)
    expect(tab.get_by_label("What the video shows")).to_be_focused()
    tab.keyboard.type(caption)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent").strip() == "Search"
    tab.keyboard.press("Enter")
    expect(tab.locator(RESULTS).first).to_contain_text(name)
    focused = []
    for _ in range(6):
        tab.keyboard.press("Tab")
        focused.append(tab.evaluate("document.activeElement.tagName"))
    assert "VIDEO" in focused
    assert tab.locator("#status [role=status]").count() == 1


def test_the_page_fits_the_screen_of_a_phone(
    page: PageServer, browser: sync_api.Browser, easy: tuple[str, str]
) -> None:
    with browser.new_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True) as phone:
        phone.set_default_timeout(120_000)
        phone.goto(page.url)
        ask(phone, easy[0])
        expect(phone.locator(RESULTS).first).to_contain_text(easy[1])
        assert phone.evaluate("document.documentElement.scrollWidth") <= 360
        for selector in ("#query", "#go", "#clip", f"{RESULTS} video"):
            box = phone.locator(selector).first.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360


def test_html_in_names_and_queries_is_shown_as_text(
    page: PageServer, tab: sync_api.Page, library: Path, nasty_name: str
) -> None:
    alerts: list[str] = []
    tab.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    tab.goto(page.url)
    tab.locator("input[type=file]").set_input_files(
        library / "secret.mp4"
    )  # the same content as the clip with that name
    card = tab.locator(RESULTS).filter(has_text=nasty_name)
    expect(card).to_have_count(1)
    video = card.locator("video")
    video.evaluate("video => video.play()")
    tab.wait_for_function("video => video.currentTime > 0", arg=video.element_handle())
    ask(tab, "<img src=x onerror=alert(2)>")
    expect(tab.locator("#status")).to_contain_text("<img src=x onerror=alert(2)>")
    assert alerts == []


def test_an_empty_query_and_one_that_is_too_long_are_explained(page: PageServer, tab: sync_api.Page) -> None:
    tab.goto(page.url)
    ask(tab, "   ")
    expect(tab.locator("#status")).to_contain_text("Type what the video shows")
    expect(tab.locator(RESULTS)).to_have_count(0)
    tab.goto(f"{page.url}?q={'a' * 2001}")  # the box itself accepts at most 2000
    expect(tab.get_by_role("alert")).to_have_text("That is longer than 2000 characters.")
    expect(tab.locator(RESULTS)).to_have_count(0)


def test_an_index_without_videos_has_no_results(empty_page: PageServer, tab: sync_api.Page) -> None:
    tab.goto(empty_page.url)
    ask(tab, "a red square")
    expect(tab.locator("#status")).to_contain_text("No videos were found for “a red square”: the index has 0.")


def test_a_query_sent_as_soon_as_the_page_opens_is_answered(
    page: PageServer, browser: sync_api.Browser, easy: tuple[str, str]
) -> None:
    for _ in range(2):
        with browser.new_context() as context:  # the first visit fills its cache, the others are faster
            for _ in range(4):
                with context.new_page() as fresh:
                    fresh.goto(page.url)
                    ask(fresh, easy[0])
                    expect(fresh.locator(RESULTS).first).to_contain_text(easy[1])


def test_one_video_plays_at_a_time(page: PageServer, tab: sync_api.Page, easy: tuple[str, str]) -> None:
    tab.goto(page.url)
    ask(tab, easy[0])
    only_plays = "n => [...document.querySelectorAll('.hits video')].every((video, i) => video.paused === (i !== n))"
    for number in (0, 1):
        tab.locator(".hits .play").nth(number).click()
        tab.wait_for_function(only_plays, arg=number)
    assert tab.evaluate("document.activeElement.tagName") == "VIDEO"


# Tries to read the page's settings and an image of it, and to upload a file.
ATTACK = """async page => {
    const form = new FormData(), outcome = {}, image = new Image();
    form.append('files', new File(['x'], 'a.mp4'));
    for (const [path, options] of [['config', {}], ['gradio_api/upload', {method: 'POST', body: form}]])
        outcome[path] = await fetch(page + path, {mode: 'no-cors', ...options}).then(() => 'read', () => 'refused');
    outcome.image = await new Promise(done => {
        image.onload = () => done('read');
        image.onerror = () => done('refused');
        image.src = page + 'static/img/logo.svg';
    });
    return outcome;
}"""


def test_another_website_can_neither_read_from_the_page_nor_send_to_it(
    page: PageServer, browser: sync_api.Browser
) -> None:
    with HttpServer(lambda request: Response(b"<p>A website.")) as website, browser.new_page(bypass_csp=True) as tab:
        tab.set_default_timeout(120_000)
        tab.goto(page.url)
        assert set(tab.evaluate(ATTACK, page.url).values()) == {"read"}
        tab.goto(website.url.replace("127.0.0.1", "localhost"))  # to a browser, another site than 127.0.0.1
        outcome = tab.evaluate(ATTACK, page.url)
        assert outcome == {"config": "refused", "gradio_api/upload": "refused", "image": "refused"}
        # A link to a search may be followed from anywhere.
        tab.evaluate("url => { location.href = url; }", f"{page.url}?q=x")
        expect(tab.locator(RESULTS)).to_have_count(12)
