"""Renders the pictures of the page, light and dark and on a phone, from a real run on drawn videos.

pip install -e '.[retrieval]' playwright
python docs/render_page.py [--out FOLDER] [--chromium PROGRAM]
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex
from clip4clip.training.synthetic import write_dataset, write_long_videos

CLIPS = 60
LONG_VIDEOS = 2
QUERY = "a group of three huge orange discs rising and falling on white paper"
RIGHT = ("drawn film 1.mp4", "0:53–0:58")  # the moment that the query describes
DATE = time.mktime((2025, 6, 1, 12, 0, 0, 0, 0, -1))  # of all files, which the page shows
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
QUIET += ["--disable-component-update"]


@dataclass(frozen=True)
class View:
    """What a picture shows: the screen, its size in CSS pixels, its colours, and whether the viewer is open."""

    width: int
    height: int
    scale: int = 1
    scheme: str = "light"
    is_phone: bool = False
    plays: bool = False


PICTURES = {
    "page.png": View(1200, 800),
    "page_phone.png": View(375, 780, scale=2, is_phone=True),
    "page_dark.png": View(1200, 800, scheme="dark", plays=True),
}


def make_library(folder: Path) -> None:
    """Draw short clips and long videos into a folder, and index them in its ``videos.db``."""
    write_dataset(folder, 0, CLIPS)
    write_long_videos(folder, LONG_VIDEOS)
    for kind, name in (("eval", "drawn clip"), ("long", "drawn film")):
        for number, path in enumerate(sorted((folder / kind).iterdir()), start=1):
            os.utime(path.rename(path.with_name(f"{name} {number}.mp4")), (DATE, DATE))
    (folder / "eval").rename(folder / "clips")
    (folder / "long").rename(folder / "films")
    with VideoIndex(folder / "videos.db", encoder=EncoderSpec("clip_vit_tiny_demo")) as index:
        index.sync(folder)


@contextmanager
def serving(uri: Path) -> Iterator[str]:
    """``clip4clip serve`` in a process of its own; the page's address."""
    command = [sys.executable, "-m", "clip4clip", "serve", "--uri", str(uri), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        said = ""
        for line in server.stderr:
            said += line
            if found := re.search(r"open (http://\S+)", line):
                break
        else:
            sys.exit(f"the page did not start: {said}")
        try:
            yield found[1]
        finally:
            server.send_signal(signal.SIGINT)


def picture(browser: Browser, url: str, view: View) -> Image.Image:
    """The page when the query is answered; an error unless the right moment is first."""
    with browser.new_page(
        viewport={"width": view.width, "height": view.height},
        device_scale_factor=view.scale,
        is_mobile=view.is_phone,
        has_touch=view.is_phone,
        color_scheme=view.scheme,
        reduced_motion="reduce",
        locale="en-GB",
    ) as tab:
        tab.goto(f"{url}?q=warm+up")  # the first search takes longer
        expect(tab.locator("#results > li").first).to_be_visible(timeout=60_000)
        tab.get_by_label("What the video shows").fill(QUERY)
        tab.keyboard.press("Enter")
        first = tab.locator("#results > li").first
        for text in RIGHT:
            expect(first).to_contain_text(text, timeout=60_000)
        tab.get_by_label("What the video shows").blur()
        if view.plays:
            play(tab)
        elif not view.is_phone:
            second = tab.locator("#results > li").nth(1)
            second.hover()
            expect(second.locator(".strip img").first).to_be_visible(timeout=60_000)
        tab.wait_for_load_state("networkidle")  # the pictures of the videos are there
        tab.wait_for_timeout(500)  # and drawn
        return Image.open(io.BytesIO(tab.screenshot())).convert("RGB")


def play(tab: Page) -> None:
    """Open the viewer at the first result, and stop it in the middle of the moment."""
    tab.locator("#results > li .stage").first.click()
    expect(tab.locator("#other-moments button").first).to_be_visible(timeout=60_000)
    tab.evaluate("""() => new Promise(done => {
        const player = document.getElementById('player');
        player.addEventListener('seeked', done, {once: true});
        player.pause();
        player.currentTime = 55.5;
    })""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder of the pictures; default: this one"
    )
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    arguments = parser.parse_args()
    if not arguments.chromium:
        sys.exit("no Chromium on this machine: pass --chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        library = Path(folder) / "videos"
        make_library(library)
        # The browser goes first: a server waits for its connections to end.
        with (
            serving(library / "videos.db") as url,
            playwright.chromium.launch(executable_path=arguments.chromium, args=QUIET) as browser,
        ):
            for name, view in PICTURES.items():
                picture(browser, url, view).save(arguments.out / name, optimize=True)
                print(f"wrote {arguments.out / name}")


if __name__ == "__main__":
    main()
