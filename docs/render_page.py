"""Renders the pictures of the page, as a desktop and as a phone show it, from a real run on drawn clips.

pip install -e '.[retrieval]' playwright
python docs/render_page.py [--out FOLDER] [--chromium PROGRAM]
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from clip4clip.encoder import EncoderSpec
from clip4clip.evaluation.pairs import read_pairs
from clip4clip.retrieval import VideoIndex
from clip4clip.training.synthetic import write_dataset

CLIPS = 120
QUERY = "a large purple dotted diamond moving from side to side on a chess board"
RIGHT = (
    "a video of a large purple dotted diamond moving from side to side in the center on a chess board"  # its caption
)
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
QUIET += ["--disable-component-update"]


@dataclass(frozen=True)
class Screen:
    """What the page is shown on: its size in CSS pixels, how many of its own each of them is, and whether by touch."""

    width: int
    height: int
    scale: int
    is_phone: bool


PICTURES = {"page.png": Screen(1200, 860, 1, False), "page_phone.png": Screen(375, 780, 2, True)}


def make_library(folder: Path) -> str:
    """Draws clips into a folder and indexes them in its ``videos.db``; the name of the clip to be found."""
    write_dataset(folder, 0, CLIPS)
    with VideoIndex(folder / "videos.db", encoder=EncoderSpec("clip_vit_tiny_demo")) as index:
        index.sync(folder / "eval")
    return next(pair.path.name for pair in read_pairs(folder / "eval.csv", folder) if pair.sentence == RIGHT)


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


def picture(browser: Browser, url: str, right: str, screen: Screen) -> Image.Image:
    """The page when the query is answered; an error unless the right clip is first."""
    with browser.new_page(
        viewport={"width": screen.width, "height": screen.height},
        device_scale_factor=screen.scale,
        is_mobile=screen.is_phone,
        has_touch=screen.is_phone,
        color_scheme="light",
    ) as tab:
        tab.goto(url)
        tab.wait_for_function("document.activeElement.closest('#query')")  # from then on the page listens
        tab.get_by_label("What the video shows").fill(QUERY)
        tab.keyboard.press("Enter")
        expect(tab.locator(".hits li").first).to_contain_text(right, timeout=60_000)
        tab.wait_for_load_state("networkidle")  # the pictures of the clips are there
        tab.wait_for_timeout(500)  # and drawn
        return Image.open(io.BytesIO(tab.screenshot())).convert("RGB")


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
        right = make_library(Path(folder))
        # The browser goes first: a server waits for its connections to end.
        with (
            serving(Path(folder) / "videos.db") as url,
            playwright.chromium.launch(executable_path=arguments.chromium, args=QUIET) as browser,
        ):
            for name, screen in PICTURES.items():
                picture(browser, url, right, screen).save(arguments.out / name, optimize=True)
                print(f"wrote {arguments.out / name}")


if __name__ == "__main__":
    main()
