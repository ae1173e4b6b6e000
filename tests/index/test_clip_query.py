"""Tests for clip4clip.index.clip_query: what is searched for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import clips
import numpy as np
from PIL import Image

from clip4clip.index.clip_query import embed_clip
from clip4clip.video.sampling import DEFAULT_SAMPLING

ORIENTATION = 0x0112  # tag of EXIF


def test_an_image_is_searched_for_as_it_is_meant_to_be_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 2  # mirrored, as by the front camera of a phone
    picture = clips.picture(8)
    Image.fromarray(picture[:, ::-1]).save(tmp_path / "selfie.jpg", quality=95, exif=exif)
    encoder: Any = list  # returns the frames in place of a vector
    [[frame]] = embed_clip(tmp_path / "selfie.jpg", encoder, DEFAULT_SAMPLING)
    assert np.abs(frame.astype(int) - picture).mean() < 4
