"""Check an installed wheel without the repository: the demo, operators in Towhee's cache folder, the command line.

Run by .ci/run, in an environment where only the wheel is installed:

python wheel_alone.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

os.environ["TOWHEE_HOME"] = str(Path("towhee_home").absolute())

import numpy as np

subprocess.run(["clip4clip", "demo", "--clips", "8"], check=True)
assert Path("clip4clip_demo/results.png").stat().st_size > 10_000
clip, caption = Path("clip4clip_demo/eval.csv").read_text("utf-8").splitlines()[1].split(",", 1)
clip = f"clip4clip_demo/{clip}"
demo = ["-m", "clip_vit_tiny_demo"]
subprocess.run(["clip4clip", "install-operators"], check=True)
subprocess.run(["clip4clip", "embed-text", caption, *demo, "-o", "text.npz"], check=True)
subprocess.run(["clip4clip", "embed-video", clip, *demo, "-o", "video.npz"], check=True)

from towhee import ops, pipe  # noqa: E402

assert "clip4clip" not in sys.modules, "Towhee must load the operator from its cache folder, not from the registry"
text = (
    pipe.input("text")
    .map("text", "vec", ops.video_text_embedding.clip4clip(model_name="clip_vit_tiny_demo", modality="text"))
    .output("vec")
)
text_vector = text(caption).get()[0]
np.testing.assert_allclose(text_vector, np.load("text.npz")["vectors"][0], atol=1e-5)

sampling = {"sample_type": "uniform_temporal_subsample", "args": {"num_samples": 12}}
video = (
    pipe.input("path")
    .map("path", "frames", ops.video_decode.ffmpeg(**sampling))
    .map("frames", "list", lambda frames: list(frames))
    .map("list", "vec", ops.video_text_embedding.clip4clip("clip_vit_tiny_demo", "video"))
    .output("vec")
)
video_vector = video(clip).get()[0]
np.testing.assert_allclose(video_vector, np.load("video.npz")["vectors"][0], atol=1e-5)
assert text_vector @ video_vector > 0.5, text_vector @ video_vector

import clip4clip  # noqa: E402

assert "site-packages" in clip4clip.__file__, clip4clip.__file__
print("the wheel alone: the demo, both operators and the command line agree")
