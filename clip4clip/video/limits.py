"""How much work one video may cause."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How much work one video may cause. The defaults suit your own files; set lower ones for files from strangers.

    Attributes:
        pixels: most pixels of one frame. A decoder may hold 16 reference frames and one frame for each of its threads,
            at 1.5 to 6 bytes a pixel: 2 GB at the default and the usual 8 bits, 0.5 GB at 4096×2304.
        frames: most frames of a video, counted in its index or its packets. Each frame costs about 100 bytes of memory
            and 2 microseconds.
        decoded_pixels: most pixels that are decoded, over all frames. One core decodes 100 to 300 million a second.
        threads: threads that decode the video; 0 to choose by the number of cores. Use 1 when you read several
            videos in parallel.
    """

    pixels: int = 8192 * 8192
    frames: int = 6_000_000  # a day at 60 a second has 5.2 million
    decoded_pixels: float = math.inf
    threads: int = 0


DEFAULT_LIMITS = Limits()
