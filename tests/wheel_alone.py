"""Run by .ci/run where only the wheel is installed: both examples through Towhee's cache folder, and the command line.

python wheel_alone.py CHECKPOINT
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

os.environ["TOWHEE_HOME"] = str(Path("towhee_home").absolute())
weights = sys.argv[1]

import av  # noqa: E402
import numpy as np  # noqa: E402

with av.open("demo_video.mp4", "w") as file:
    stream = file.add_stream("libx264", rate=10)
    stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
    for shade in range(0, 250, 10):
        picture = np.full((240, 320, 3), shade, np.uint8)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    file.mux(stream.encode(None))

subprocess.run(["clip4clip", "install-operators"], check=True)
subprocess.run(["clip4clip", "embed-text", "a dog", "-w", weights, "-o", "text.npz"], check=True)
subprocess.run(["clip4clip", "embed-video", "demo_video.mp4", "-w", weights, "-o", "video.npz"], check=True)

from towhee import ops, pipe  # noqa: E402

assert "clip4clip" not in sys.modules, "the cache folder's door is to be tried, not the registry's"
text = (
    pipe.input("text")
    .map(
        "text",
        "vec",
        ops.video_text_embedding.clip4clip(model_name="clip_vit_b32", modality="text", weight_path=weights),
    )
    .output("vec")
)
vector = text("a dog").get()[0]
np.testing.assert_allclose(vector, np.load("text.npz")["vectors"][0], atol=1e-5)

twelve = {"sample_type": "uniform_temporal_subsample", "args": {"num_samples": 12}}
video = (
    pipe.input("path")
    .map("path", "frames", ops.video_decode.ffmpeg(**twelve))
    .map("frames", "list", lambda frames: list(frames))
    .map("list", "vec", ops.video_text_embedding.clip4clip("clip_vit_b32", "video", weights))
    .output("vec")
)
vector = video("demo_video.mp4").get()[0]
np.testing.assert_allclose(vector, np.load("video.npz")["vectors"][0], atol=1e-5)

import clip4clip  # noqa: E402

assert "site-packages" in clip4clip.__file__, clip4clip.__file__
print("the wheel alone: both examples and the command line agree")
