"""Pixel values equal those of CLIP's preprocessing, for frames of every type, mode and size."""

from __future__ import annotations

import io
import multiprocessing
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from towhee.types import Image as TowheeImage
from towhee.types import VideoFrame

from clip4clip import InputTypeError, InputValueError
from clip4clip.config import ImageConfig
from clip4clip.preprocess import MAX_ASPECT, crop_frame, pixel_values

SIZES = [(1280, 720), (720, 1280), (224, 224), (223, 225), (640, 480), (101, 97), (300, 1), (1, 64), (1, 1), (333, 224)]
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def _picture(width: int, height: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(width * 10_000 + height).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _resized_then_cropped(array: np.ndarray) -> np.ndarray:
    """Preprocess an array step by step: resize its short side to 224 by Pillow, crop the centre, normalise."""
    height, width = array.shape[:2]
    short = min(width, height)
    size = (int(224 * width / short), int(224 * height / short))
    resized = np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BICUBIC), dtype=np.float64)
    top, left = round((size[1] - 224) / 2), round((size[0] - 224) / 2)
    cropped = resized[top : top + 224, left : left + 224]
    return ((cropped / 255 - MEAN) / STD).transpose(2, 0, 1)


@pytest.mark.parametrize(("width", "height"), [size for size in SIZES if max(size) <= MAX_ASPECT * min(size)])
def test_pixels_equal_resize_then_crop(width: int, height: int) -> None:
    array = _picture(width, height)
    np.testing.assert_allclose(pixel_values([array])[0], _resized_then_cropped(array), atol=2e-6)


def test_pixels_equal_resize_then_crop_over_many_sizes() -> None:
    for width, height in np.random.default_rng(0).integers(8, 400, (150, 2)).tolist():
        array = _picture(width, height)
        np.testing.assert_allclose(pixel_values([array])[0], _resized_then_cropped(array), atol=2e-6)


# How a processor of transformers is set up -> the same images in ours.
PROCESSORS: dict[str, tuple[dict[str, Any], ImageConfig]] = {
    "OpenAI": ({}, ImageConfig()),
    "bilinear": ({"resample": 2}, ImageConfig(interpolation="bilinear")),
    "squash": (
        {"size": {"height": 224, "width": 224}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3},
        ImageConfig((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), resize="squash"),
    ),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixels_equal_those_of_transformers(kind: str) -> None:
    from transformers import CLIPImageProcessorPil  # takes seconds

    settings, image = PROCESSORS[kind]
    processor = CLIPImageProcessorPil(**settings)
    for width, height in [
        (1280, 720),
        (97, 331),
        (225, 223),
        *np.random.default_rng(2).integers(60, 400, (12, 2)).tolist(),
    ]:
        if image.resize == "crop" and _margin(width, height) % 4 == 3:
            continue
        frame = _picture(width, height)
        theirs = processor(Image.fromarray(frame), return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(pixel_values([frame], 224, image)[0], theirs, atol=1e-6)


def test_an_odd_margin_is_divided_as_by_torchvision_and_not_as_by_transformers() -> None:
    # A margin of 3 is cut to 2 and 1 by torchvision, which OpenAI's code uses, and to 1 and 2 by transformers.
    from transformers import CLIPImageProcessorPil

    frame = _picture(227, 224)
    assert _margin(227, 224) == 3
    theirs = CLIPImageProcessorPil()(Image.fromarray(frame), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(pixel_values([frame[:, 2:226]])[0], pixel_values([frame])[0], atol=1e-6)
    np.testing.assert_allclose(pixel_values([frame[:, 1:225]])[0], theirs, atol=1e-6)


def _margin(width: int, height: int) -> int:
    """Return how much longer the long side is than 224 once the short side has 224 pixels."""
    return int(224 * max(width, height) / min(width, height)) - 224


IMAGES = [
    ImageConfig(),
    ImageConfig(interpolation="bilinear"),
    ImageConfig((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", "squash"),
    ImageConfig(resize="squash"),
]


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: f"{image.interpolation} {image.resize}")
def test_a_cropped_frame_is_used_unchanged(image: ImageConfig) -> None:
    for width, height in SIZES:
        frame = _picture(width, height)
        square = crop_frame(frame, 96, image)
        assert square.shape == (96, 96, 3)
        np.testing.assert_array_equal(pixel_values([square], 96, image), pixel_values([frame], 96, image))
        np.testing.assert_array_equal(crop_frame(square, 96, image), square)


def test_a_squashed_frame_is_the_whole_frame() -> None:
    image = ImageConfig((0.5, 0.4, 0.3), (0.5, 0.25, 0.2), "bilinear", "squash")
    frame = _picture(90, 40)
    resized = np.asarray(Image.fromarray(frame).resize((32, 32), Image.Resampling.BILINEAR), np.float64)
    expected = ((resized / 255 - image.mean) / image.std).transpose(2, 0, 1)
    np.testing.assert_allclose(pixel_values([frame], 32, image)[0], expected, atol=2e-6)


@pytest.mark.parametrize(("width", "height"), [(1, 300), (300, 1), (2, 200)])
def test_an_extreme_frame_is_squashed_to_within_a_level(width: int, height: int) -> None:
    frame = 64 + _picture(width, height) // 2  # what overshoots is not clipped
    expected = np.asarray(Image.fromarray(frame).resize((64, 64), Image.Resampling.BICUBIC), np.int16)
    assert np.abs(crop_frame(frame, 64, ImageConfig(resize="squash")) - expected).max() <= 1


def test_shape_and_dtype() -> None:
    pixels = pixel_values([_picture(30, 40), _picture(50, 20)], resolution=64)
    assert pixels.shape == (2, 3, 64, 64)
    assert pixels.dtype == np.float32


RGB = _picture(60, 45)


@pytest.mark.parametrize(
    "frame",
    [
        TowheeImage(RGB, "RGB"),
        TowheeImage(RGB, None),
        TowheeImage(RGB[..., ::-1], "BGR"),
        VideoFrame(RGB[..., ::-1], "bgr", 40, 1),
        TowheeImage(np.dstack([RGB, np.full(RGB.shape[:2], 7, np.uint8)]), "RGBA"),
        TowheeImage(np.dstack([RGB[..., ::-1], np.full(RGB.shape[:2], 7, np.uint8)]), "BGRA"),
        Image.fromarray(RGB),
        Image.fromarray(np.dstack([RGB, np.full(RGB.shape[:2], 7, np.uint8)])),
        np.repeat(RGB, 2, axis=1)[:, ::2],
        np.asfortranarray(RGB),
    ],
    ids=["RGB", "no mode", "BGR", "VideoFrame BGR", "RGBA", "BGRA", "PIL", "PIL RGBA", "strided", "fortran"],
)
def test_the_same_pixels_in_any_mode_give_the_same_values(frame: object) -> None:
    np.testing.assert_allclose(pixel_values([frame]), pixel_values([RGB]))


@pytest.mark.parametrize(
    "frame",
    [
        TowheeImage(RGB[..., 0], "GRAY"),
        TowheeImage(RGB[..., :1], "GRAY"),
        Image.fromarray(RGB[..., 0]),
        Image.fromarray(RGB[..., 0].astype(np.int32)),
        Image.fromarray(RGB[..., 0].astype(np.float32)),
        Image.fromarray(RGB[..., 0].astype(np.uint16) * 256 + 77),
    ],
    ids=["GRAY 2-D", "GRAY 3-D", "PIL L", "PIL I", "PIL F", "PIL I;16"],
)
def test_grey_is_the_same_in_all_three_channels(frame: object) -> None:
    np.testing.assert_allclose(pixel_values([frame]), pixel_values([RGB[..., :1].repeat(3, axis=2)]))


def in_mode(picture: Image.Image, mode: str) -> Image.Image:
    """Convert a picture to a mode of Pillow."""
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(picture, *profiles, outputMode="LAB")
    if mode in ("P", "PA"):
        return picture.convert("P", palette=Image.Palette.ADAPTIVE).convert(mode)
    if mode.startswith("I;16"):
        wide = (np.asarray(picture.convert("L")) * np.uint16(256)).astype(">u2" if mode == "I;16B" else "<u2")
        return Image.frombytes(mode, picture.size, wide.tobytes())
    # Pillow converts to the premultiplied modes only from the plain ones.
    return picture.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode)).convert(mode)


def _stripes(*colours: tuple[int, int, int]) -> Image.Image:
    return Image.fromarray(np.repeat(np.array([colours], np.uint8), 20, axis=1).repeat(30, axis=0))


COLOURS = _stripes((200, 100, 50), (60, 120, 180), (90, 160, 90))
GREYS = _stripes((0, 0, 0), (255, 255, 255))


@pytest.mark.parametrize(
    ("mode", "picture"),
    [(mode, COLOURS) for mode in ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")]
    + [(mode, GREYS) for mode in ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")],
)
def test_a_pil_picture_looks_the_same_in_every_mode(mode: str, picture: Image.Image) -> None:
    converted = in_mode(picture, mode)
    assert converted.mode == mode
    # HSV, YCbCr and LAB in bytes are up to five levels of 255 off the RGB they came from.
    np.testing.assert_allclose(pixel_values([converted]), pixel_values([picture]), atol=0.08, rtol=0)


def test_every_mode_of_pillow_is_tested() -> None:
    marks = test_a_pil_picture_looks_the_same_in_every_mode.pytestmark  # type: ignore[attr-defined]
    assert {mode for mode, _ in marks[0].args[1]} == set(Image.MODES)


def test_transparency_is_dropped() -> None:
    faint = COLOURS.copy()
    faint.putalpha(40)
    np.testing.assert_allclose(pixel_values([faint]), pixel_values([COLOURS]))


def test_an_unreadable_pil_picture_is_an_error() -> None:
    whole = io.BytesIO()
    Image.fromarray(_picture(300, 300)).save(whole, "JPEG")
    truncated = Image.open(io.BytesIO(whole.getvalue()[:2000]))  # Pillow reads the pixels only when they are used
    with pytest.raises(InputValueError, match="truncated"):
        pixel_values([truncated])


@pytest.mark.parametrize(("width", "height"), [(65, 1), (301, 1), (1, 301), (5_000, 77)])
def test_pixels_of_an_extreme_frame_are_those_of_its_middle(width: int, height: int) -> None:
    array = _picture(width, height)
    # The tolerance is large because noise that is enlarged so much overshoots, and is clipped in a different order.
    np.testing.assert_allclose(pixel_values([array])[0], _resized_then_cropped(array), atol=0.2)


@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize(("width", "height"), [(200_000, 1), (1, 200_000), (20_000, 3)])
def test_a_very_long_frame_needs_little_memory(width: int, height: int, resize: str) -> None:
    frame = _picture(width, height)
    tracemalloc.start()  # it counts the memory of numpy; the same crop limits that of Pillow
    pixels = pixel_values([frame], 224, ImageConfig(resize=resize))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pixels.shape == (1, 3, 224, 224)
    assert peak < 40e6


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (RGB / 255, r"must be uint8 .* is float64"),
        (RGB.astype(np.float32) * np.nan, "float32 and holds NaN"),
        (RGB.astype(np.int8), "is int8"),
        (RGB.astype(np.int64), "is int64"),
        (RGB.astype(bool), "is bool"),
        (np.zeros((0, 5, 3), np.uint8), r"at least one pixel.*\(0, 5, 3\)"),
        (np.zeros((5, 0, 3), np.uint8), "at least one pixel"),
        (np.zeros((5, 5), np.uint8), r"\(height, width, 3\), but this ndarray has shape \(5, 5\)"),
        (np.zeros((5, 5, 4), np.uint8), r"has shape \(5, 5, 4\)"),
        (np.zeros((3, 5, 5), np.uint8), r"has shape \(3, 5, 5\)"),
        (TowheeImage(RGB, "HSV"), "mode 'HSV'; the supported modes are RGB, BGR"),
        (TowheeImage(RGB, "RGBA"), r"mode RGBA must have shape \(height, width, 4\)"),
        (Image.fromarray(np.array([[300.0, 1.0]], np.float32)), "mode 'F' must hold values 0 to 255"),
        (Image.fromarray(np.array([[np.nan, 1.0]], np.float32)), "mode 'F' must hold values 0 to 255"),
        (Image.fromarray(np.array([[-1, 70_000]], np.int32)), "mode 'I'.*-1 to 70000"),
        (Image.new("RGB", (0, 4)), r"at least one pixel.*\(0, 4\)"),
    ],
)
def test_an_invalid_frame_is_an_error_that_says_why(frame: object, message: str) -> None:
    with pytest.raises(InputValueError, match=message):
        pixel_values([frame])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ("a.jpg", r"'a\.jpg' is a path .*ops\.video_decode\.ffmpeg.*clip4clip\.video\.read_frames"),
        (Path("a.jpg"), "is a path"),
        (b"\xff\xd8", "is a path"),
        (None, "not NoneType: None"),
        ([[0, 0, 0]], "not list"),
        (torch.zeros(5, 5, 3), "not Tensor"),
    ],
)
def test_anything_but_a_frame_is_an_error_that_names_its_type(frame: object, message: str) -> None:
    with pytest.raises(InputTypeError, match=message):
        pixel_values([frame])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that fork")
def test_frames_are_resized_in_a_forked_process(frames: list[np.ndarray]) -> None:
    # The worker of a DataLoader is such a process. The threads of its parent do not exist in it.
    expected = pixel_values(frames, 32)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pixels = pool.apply_async(_pixels_in_worker, (frames,)).get(timeout=300)
    np.testing.assert_array_equal(pixels, expected)


def _pixels_in_worker(frames: list[np.ndarray]) -> np.ndarray:
    torch.set_num_threads(1)  # as in a DataLoader: the threads of OpenMP do not exist either
    return pixel_values(frames, 32)


def test_many_frames_keep_their_order_and_an_error_is_raised(frames: list[np.ndarray]) -> None:
    many = [frames[number % 5] for number in range(40)]
    together = pixel_values(many, 32)
    for frame, pixels in zip(many, together, strict=True):
        assert np.array_equal(pixels, pixel_values([frame], 32)[0])
    with pytest.raises(InputTypeError, match="a frame must be"):
        pixel_values([*many, 3], 32)
