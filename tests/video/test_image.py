"""Tests for clip4clip.video.image."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
from PIL import Image

from clip4clip import VideoError
from clip4clip.video.image import is_image, read_image
from clip4clip.video.limits import Limits

PICTURE = clips.picture(8)
PHOTO = Image.fromarray(PICTURE)
HALF = np.where(np.arange(PICTURE.shape[1]) < 80, 255, 0).astype(np.uint8) * np.ones(PICTURE.shape[:2], np.uint8)
ORIENTATION = 0x0112  # tag of EXIF


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# By the value of EXIF's orientation: from the picture as it is meant to what the camera has stored.
STORED = {
    1: lambda picture: picture,
    2: lambda picture: picture[:, ::-1],
    3: lambda picture: picture[::-1, ::-1],
    4: lambda picture: picture[::-1],
    5: lambda picture: picture.swapaxes(0, 1),
    6: lambda picture: np.rot90(picture),
    7: lambda picture: picture[::-1, ::-1].swapaxes(0, 1),
    8: lambda picture: np.rot90(picture, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](PICTURE)))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    image = read_image(encode(stored, kind, exif=exif, **options))
    assert image is not None
    assert (image.shape, image.dtype) == (PICTURE.shape, np.uint8)
    assert np.abs(image.astype(int) - PICTURE).mean() < 3


def test_what_is_transparent_is_white_whatever_lies_behind_it() -> None:
    image = PHOTO.copy()
    image.putalpha(Image.fromarray(HALF))
    palette = PHOTO.quantize(8)
    for content in (encode(image, "PNG"), encode(image, "WEBP", lossless=True)):
        shown = read_image(content)
        assert shown is not None
        assert (shown[:, :80] == PICTURE[:, :80]).all()
        assert (shown[:, 80:] == 255).all()
    shown = read_image(encode(palette, "PNG", transparency=palette.getpixel((150, 10))))
    assert shown is not None
    assert (shown[10, 150] == 255).all()


def test_all_kinds_of_pixels_become_rgb() -> None:
    grey = np.asarray(PHOTO.convert("L"))
    for content, expected in [
        (encode(PHOTO.convert("CMYK"), "JPEG", quality=95), PICTURE),
        (encode(PHOTO.quantize(256), "PNG"), PICTURE),
        (encode(PHOTO.convert("L"), "JPEG", quality=95), grey[..., None]),
        (encode(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"), grey[..., None]),
    ]:
        image = read_image(content)
        assert image is not None
        assert image.shape == PICTURE.shape
        assert np.abs(image.astype(int) - expected).mean() < 4


def test_of_several_images_the_first_one_is_read() -> None:
    others = [Image.fromarray(255 - PICTURE)]
    for content in (
        encode(PHOTO, "MPO", save_all=True, append_images=others, quality=95),  # as phones store them
        encode(PHOTO, "WEBP", save_all=True, append_images=others, lossless=True, duration=100),
    ):
        image = read_image(content)
        assert image is not None
        assert np.abs(image.astype(int) - PICTURE).mean() < 3


def test_the_content_decides_what_is_an_image(tmp_path: Path) -> None:
    video = clips.make("h264", tmp_path)
    animation = encode(PHOTO, "PNG", save_all=True, append_images=[PHOTO.rotate(180)], duration=100)
    for source in (video, video.read_bytes(), animation, b"", "http://127.0.0.1/photo.jpg", tmp_path / "gone.jpg"):
        assert read_image(source) is None
    photo = tmp_path / "photo.mp4"
    photo.write_bytes(encode(PHOTO, "JPEG"))
    with photo.open("rb") as file:
        file.seek(5)
        for source in (photo, str(photo), file):
            assert is_image(source)
            assert read_image(source) is not None


def test_a_path_that_cannot_be_looked_at_is_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_image("a" * 5000) is None  # longer than any file system allows

    def refuse(_: Path) -> bool:
        raise PermissionError("no")

    monkeypatch.setattr(Path, "is_file", refuse)
    assert read_image("a.png") is None


def test_a_damaged_image_and_one_over_a_limit_are_errors() -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        content = encode(PHOTO, kind)
        with pytest.raises(VideoError, match="the image is damaged"):
            read_image(content[: len(content) // 2])
        with pytest.raises(VideoError, match="160×96 pixels are over the limit of 10,000"):
            read_image(content, Limits(pixels=10_000))
    bomb = bytearray(encode(PHOTO, "PNG"))
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2
    with pytest.raises(VideoError):
        read_image(bytes(bomb))
