"""From the start of a process to its first vector: seconds, peak memory, and whether the vector is right.

    python benchmarks/first_vector.py CHECKPOINT [--runs 5]

Each measurement is a process of its own. The cases are interleaved, the checkpoint is read once beforehand, medians are
given. Peak memory is the largest resident set, pages of the mapped checkpoint included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

CASES = {
    "import torch": "import torch",
    "TextEncoder": """
from clip4clip import TextEncoder
vector = TextEncoder.load('clip_vit_b32', WEIGHTS, 'cpu')('kids feeding and playing with the horse')
""",
    "text operator": """
import clip4clip
from towhee import ops
operator = ops.video_text_embedding.clip4clip('clip_vit_b32', 'text', WEIGHTS, 'cpu')
vector = operator('kids feeding and playing with the horse')
""",
    "VideoEncoder, 12 frames of 720p": """
import numpy
from clip4clip import VideoEncoder
frames = numpy.random.default_rng(0).integers(0, 256, (12, 720, 1280, 3), dtype=numpy.uint8)
vector = VideoEncoder.load('clip_vit_b32', WEIGHTS, 'cpu')(frames)
""",
    "video operator, 12 frames of 720p": """
import numpy
import clip4clip
from towhee import ops
frames = numpy.random.default_rng(0).integers(0, 256, (12, 720, 1280, 3), dtype=numpy.uint8)
vector = ops.video_text_embedding.clip4clip('clip_vit_b32', 'video', WEIGHTS, 'cpu')(frames)
""",
}
REPORT = """
import json, resource, sys
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
print(json.dumps({'peak': peak, 'vector': vector.tolist() if 'vector' in globals() else None}))
"""


def measure(code: str, weights: Path) -> dict:
    start = time.perf_counter()
    program = f"WEIGHTS = {str(weights)!r}\n{code}\n{REPORT}"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, capture_output=True, text=True)
    return {"seconds": time.perf_counter() - start, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    weights = arguments.checkpoint.resolve()
    with weights.open("rb") as file:  # in pieces: a child's peak memory begins with its parent's
        while file.read(1 << 20):
            pass
    runs: dict[str, list[dict]] = {name: [] for name in CASES}
    for _ in range(arguments.runs):
        for name, code in CASES.items():
            runs[name].append(measure(code, weights))
    print(f"{'case':36}{'seconds':>10}{'peak MB':>10}{'cosine to the encoder':>24}")
    for name, measured in runs.items():
        seconds = statistics.median(run["seconds"] for run in measured)
        peak = statistics.median(run["peak"] for run in measured) / 1e6
        twin = "TextEncoder" if "text" in name.lower() else "VideoEncoder, 12 frames of 720p"
        vector, reference = measured[0]["vector"], runs[twin][0]["vector"]
        cosine = f"{np.dot(vector, reference):.7f}" if vector else "-"
        print(f"{name:36}{seconds:10.2f}{peak:10.0f}{cosine:>24}")


if __name__ == "__main__":
    main()
