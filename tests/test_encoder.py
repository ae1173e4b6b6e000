"""Captions and decoded frames to unit vectors, in both runtimes."""

from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clip4clip import CheckpointError, InputTypeError, InputValueError, TextEncoder, VideoEncoder
from clip4clip.encoder import MAX_BATCH_FRAMES, MAX_BATCH_TOKENS, MAX_PADDING_TOKENS
from clip4clip.model import MeanPooling, TextTower, VisionTower
from clip4clip.runtime.torch_backend import TorchHead, TorchTower
from clip4clip.runtime.tower import Tower
from clip4clip.weights.state_dict import tower_state

PATH_HINT = r"decode it first, with ops\.video_decode\.ffmpeg"


@pytest.fixture(scope="module", params=["torch", "onnxruntime"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def text(tiny_checkpoint: Path, runtime: str) -> TextEncoder:
    return TextEncoder.load("tiny", tiny_checkpoint, "cpu", runtime)


@pytest.fixture(scope="module")
def video(tiny_checkpoint: Path, runtime: str) -> VideoEncoder:
    return VideoEncoder.load("tiny", tiny_checkpoint, "cpu", runtime)


def random_clip(length: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (length, 20, 30, 3), dtype=np.uint8))


def assert_unit_rows(vectors: np.ndarray, shape: tuple[int, ...]) -> None:
    assert isinstance(vectors, np.ndarray)
    assert vectors.dtype == np.float32
    assert vectors.shape == shape
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)


@pytest.mark.slow
def test_a_model_of_real_size_gives_512_numbers(b32_checkpoint: Path, frames: list[np.ndarray], runtime: str) -> None:
    text = TextEncoder.load("clip_vit_b32", b32_checkpoint, "cpu", runtime)
    assert_unit_rows(text("a dog"), (512,))
    assert_unit_rows(text(["a dog", "a cat"]), (2, 512))
    video = VideoEncoder.load("clip_vit_b32", b32_checkpoint, "cpu", runtime)
    assert_unit_rows(video(frames), (512,))
    assert_unit_rows(video([frames, frames[:1]]), (2, 512))


def test_a_list_of_texts_gives_one_row_for_each(text: TextEncoder) -> None:
    assert_unit_rows(text(["a"]), (1, 64))
    np.testing.assert_array_equal(text(("a", "b")), text(["a", "b"]))


def test_a_text_has_the_same_vector_in_any_batch(text: TextEncoder) -> None:
    # 60 captions of many lengths need several internal batches.
    captions = [" ".join(["dog", "cat", "tree"][: 1 + n % 3] * (n % 30)) for n in range(60)]
    single = np.stack([text(caption) for caption in captions])
    np.testing.assert_allclose(text(captions), single, atol=1e-5)


def test_captions_are_batched_with_little_padding(text: TextEncoder) -> None:
    shapes = []

    def model(ids: np.ndarray) -> np.ndarray:
        shapes.append(ids.shape)
        return text.model(ids)

    captions = ["dog " * (2 + n % 5) for n in range(200)] + ["a cat"] * 300 + ["tree " * 30]
    TextEncoder(model, text.config)(captions)  # type: ignore[arg-type]
    needed = sum(2 + len(caption.split()) for caption in captions)
    assert sum(rows * length for rows, length in shapes) - needed <= MAX_PADDING_TOKENS * len(shapes)
    assert max(rows * length for rows, length in shapes) <= MAX_BATCH_TOKENS
    assert len(shapes) < 15


def test_a_video_may_be_a_list_a_tuple_an_iterator_or_an_array(video: VideoEncoder, frames: list[np.ndarray]) -> None:
    vector = video(frames)
    assert_unit_rows(vector, (64,))
    for same in (tuple(frames), iter(frames), (frame for frame in frames), np.stack(frames)):
        np.testing.assert_array_equal(video(same), vector)


def test_a_list_of_videos_of_all_types_gives_one_row_for_each(video: VideoEncoder, frames: list[np.ndarray]) -> None:
    vectors = video([frames, tuple(frames[:2]), iter(frames[1:]), np.stack(frames)])
    assert_unit_rows(vectors, (4, 64))
    single = [video(clip) for clip in (frames, frames[:2], frames[1:], frames)]
    np.testing.assert_allclose(vectors, single, atol=1e-5)


def test_a_video_has_the_same_vector_in_any_batch(video: VideoEncoder) -> None:
    # Lengths around the internal batch size, so that batches begin and end within videos.
    lengths = [1, MAX_BATCH_FRAMES - 1, MAX_BATCH_FRAMES + 1, 2, 2 * MAX_BATCH_FRAMES, 1, 1]
    videos = [random_clip(length, seed) for seed, length in enumerate(lengths)]
    np.testing.assert_allclose(video(videos), [video(clip) for clip in videos], atol=1e-5)


def test_frames_of_one_video_may_have_different_sizes(video: VideoEncoder) -> None:
    mixed = [np.zeros((size, 2 * size, 3), np.uint8) for size in (1, 30, 200)]
    assert_unit_rows(video(mixed), (64,))


def test_an_iterator_is_read_as_needed_and_its_frames_are_freed(video: VideoEncoder) -> None:
    class Frame(np.ndarray):  # a plain array cannot be referred to weakly
        pass

    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    most = 0

    def frames() -> Iterator[Frame]:
        nonlocal most
        for _ in range(5 * MAX_BATCH_FRAMES):
            frame = np.zeros((20, 30, 3), np.uint8).view(Frame)
            alive.add(frame)
            most = max(most, len(alive))
            yield frame
            del frame

    Frame.__hash__ = object.__hash__  # type: ignore[assignment]
    video(frames())
    gc.collect()
    assert most <= 3


def test_the_model_gets_no_more_than_one_batch_at_a_time(video: VideoEncoder) -> None:
    sizes = []

    def model(pixels: np.ndarray) -> np.ndarray:
        sizes.append(len(pixels))
        return video.model(pixels)

    recording = VideoEncoder(model, video.head, video.config)  # type: ignore[arg-type]
    recording(iter(random_clip(3 * MAX_BATCH_FRAMES + 5)))
    assert sizes == [MAX_BATCH_FRAMES] * 3 + [5]


def test_eight_threads_get_the_same_vectors_as_one(text: TextEncoder, video: VideoEncoder) -> None:
    videos = [random_clip(3, seed) for seed in range(16)]
    captions = [f"caption number {n}" for n in range(16)]
    with ThreadPoolExecutor(8) as pool:
        vectors, rows = list(pool.map(video, videos)), list(pool.map(text, captions))
    np.testing.assert_allclose(vectors, [video(clip) for clip in videos], atol=1e-6)
    np.testing.assert_allclose(rows, [text(caption) for caption in captions], atol=1e-6)


def test_a_text_encoder_has_no_vision_tower(tiny_checkpoint: Path) -> None:
    tower = TextEncoder.load("tiny", tiny_checkpoint, "cpu", "torch").model
    assert isinstance(tower, TorchTower)
    assert not any(isinstance(module, VisionTower | torch.nn.Conv2d) for module in tower.module.modules())


def test_an_encoder_is_in_evaluation_mode_without_gradients(tiny_checkpoint: Path) -> None:
    tower = TextEncoder.load("tiny", tiny_checkpoint, "cpu", "torch").model
    assert isinstance(tower, TorchTower)
    assert not any(parameter.requires_grad for parameter in tower.module.parameters())
    assert not tower.module.training


def test_an_encoder_can_use_a_model_that_is_being_trained(
    tiny_state: dict[str, torch.Tensor], text: TextEncoder, video: VideoEncoder, frames: list[np.ndarray]
) -> None:
    text_tower, vision_tower = TextTower(text.config), VisionTower(video.config)
    text_tower.load_state_dict(tower_state(tiny_state, "text"))
    vision_tower.load_state_dict(tower_state(tiny_state, "video"))
    np.testing.assert_allclose(TextEncoder(TorchTower(text_tower), text.config)("a dog"), text("a dog"), atol=1e-6)
    trained = VideoEncoder(TorchTower(vision_tower), TorchHead(MeanPooling()), video.config)
    np.testing.assert_allclose(trained(frames), video(frames), atol=1e-6)
    assert all(parameter.requires_grad for parameter in [*text_tower.parameters(), *vision_tower.parameters()])


def test_a_head_is_in_evaluation_mode_without_gradients(tmp_path: Path, tiny_state: dict[str, torch.Tensor]) -> None:
    head = {f"lstm_visual.{name}": tensor for name, tensor in torch.nn.LSTM(64, 64).state_dict().items()}
    save_file(tiny_state | head, tmp_path / "model.safetensors")
    loaded = VideoEncoder.load("tiny", tmp_path, "cpu").head
    assert isinstance(loaded, TorchHead)
    assert not loaded.module.training
    assert [parameter.requires_grad for parameter in loaded.module.parameters()] == [False] * 4


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ([], InputValueError, "empty list"),
        ((), InputValueError, "empty list"),
        (None, InputTypeError, "not NoneType"),
        (3, InputTypeError, "not int: 3"),
        (b"a dog", InputTypeError, "not bytes"),
        (["a", 3], InputTypeError, "text 1 must be a str, not int: 3"),
        ({"a": 1}, InputTypeError, "not dict"),
        (np.array(["a"]), InputTypeError, "not ndarray"),
    ],
)
def test_anything_but_text_is_an_error(text: TextEncoder, texts: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        text(texts)  # type: ignore[arg-type]


FRAME = np.zeros((4, 4, 3), np.uint8)


def closed_image() -> Image.Image:
    image = Image.new("RGB", (8, 8))
    image.close()
    return image


def closed_file() -> Image.Image:
    """An image whose file was closed before it was read."""
    with io.BytesIO() as file:
        Image.new("RGB", (8, 8)).save(file, "png")
        return Image.open(file)


def test_a_lone_surrogate_counts_as_the_replacement_character(text: TextEncoder) -> None:
    np.testing.assert_array_equal(text("a \udcff dog"), text("a \ufffd dog"))


@pytest.mark.parametrize(
    ("videos", "error", "message"),
    [
        ([], InputValueError, "the video has no frames"),
        (iter([]), InputValueError, "the video has no frames"),
        (np.zeros((0, 4, 4, 3), np.uint8), InputValueError, "the video has no frames"),
        ([[FRAME], []], InputValueError, "video 1 has no frames"),
        ("a.mp4", InputTypeError, f"the path 'a.mp4': {PATH_HINT}"),
        (Path("a.mp4"), InputTypeError, PATH_HINT),
        (["a.mp4", "b.mp4"], InputTypeError, f"frame 0: 'a.mp4' is a path .*{PATH_HINT}"),
        ([[FRAME], "b.mp4"], InputTypeError, f"video 1 must be decoded frames, not the path 'b.mp4': {PATH_HINT}"),
        (FRAME, InputTypeError, "not a single frame: wrap it in a list"),
        ([[FRAME], FRAME], InputTypeError, "video 1 must be a list of frames"),
        (
            np.zeros((2, 3, 4, 4, 3), np.uint8),
            InputValueError,
            r"has shape \(2, 3, 4, 4, 3\); pass several videos as a list",
        ),
        (np.zeros((2, 4, 4, 3), np.float32), InputValueError, "frame 0: a frame must be uint8.*float32"),
        ([FRAME, FRAME.astype(np.int16)], InputValueError, "frame 1: .*is int16"),
        (
            [[FRAME], [FRAME, np.full((4, 4, 3), np.nan)]],
            InputValueError,
            "frame 1 of video 1: .*float64 and holds NaN",
        ),
        ([FRAME, np.zeros((0, 4, 3), np.uint8)], InputValueError, "frame 1: .*at least one pixel"),
        ([FRAME, [FRAME]], InputTypeError, "frame 1: .*not list"),
        (None, InputTypeError, "not NoneType"),
        (7, InputTypeError, "not int: 7"),
        ({"frames": [FRAME]}, InputTypeError, "not dict"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), InputTypeError, "not Tensor"),
        ("\ud800.mp4", InputTypeError, PATH_HINT),
        ([closed_image()], InputValueError, r"frame 0: .*PIL image of size \(8, 8\) cannot be read: .*closed image"),
        ([[FRAME], [closed_file()]], InputValueError, "frame 0 of video 1: .*cannot be read: .*closed file"),
    ],
)
def test_anything_but_a_video_is_an_error(video: VideoEncoder, videos: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        video(videos)  # type: ignore[arg-type]


def test_frame_embeddings_pooled_by_the_head_are_the_vector_of_the_video(video: VideoEncoder) -> None:
    clip = random_clip(MAX_BATCH_FRAMES + 3)
    embeddings = video.frame_embeddings(iter(clip))
    assert (embeddings.shape, embeddings.dtype) == ((MAX_BATCH_FRAMES + 3, 64), np.float32)
    assert not np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-2)  # not normalised
    pooled = video.head.pool(video.head(embeddings, None))
    np.testing.assert_allclose(pooled / np.linalg.norm(pooled), video(clip), atol=1e-5)
    alone = np.concatenate([video.frame_embeddings([frame]) for frame in clip])
    np.testing.assert_allclose(embeddings, alone, atol=1e-4)
    np.testing.assert_allclose(video.frame_embeddings(np.stack(clip[:5])), embeddings[:5], atol=1e-4)


def test_frame_embeddings_are_of_the_frames_of_one_video(video: VideoEncoder) -> None:
    for empty in ([], iter([]), np.zeros((0, 4, 4, 3), np.uint8)):
        with pytest.raises(InputValueError, match="the video has no frames"):
            video.frame_embeddings(empty)
    with pytest.raises(InputTypeError, match="those of one video, but got 2 videos"):
        video.frame_embeddings([[FRAME], [FRAME]])
    with pytest.raises(InputTypeError, match=PATH_HINT):
        video.frame_embeddings("a.mp4")
    with pytest.raises(InputValueError, match="frame 1: a frame must be uint8"):
        video.frame_embeddings([FRAME, FRAME.astype(np.int16)])


@pytest.mark.parametrize("factor", [torch.nan, 0])
def test_a_checkpoint_with_zero_or_nan_weights_is_an_error(
    factor: float, runtime: str, tmp_path: Path, tiny_state: dict[str, torch.Tensor], frames: list[np.ndarray]
) -> None:
    damaged = {name: factor * tiny_state[name] for name in ("text_projection", "visual.proj")}
    save_file(tiny_state | damaged, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="embedding that is zero or not finite"):
        TextEncoder.load("tiny", tmp_path, "cpu", runtime)("a dog")
    with pytest.raises(CheckpointError, match="embedding that is zero or not finite"):
        VideoEncoder.load("tiny", tmp_path, "cpu", runtime)(frames)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [np.nan, 0, np.inf])
def test_a_zero_or_infinite_embedding_is_an_error(
    number: float, text: TextEncoder, video: VideoEncoder, frames: list[np.ndarray]
) -> None:
    class Damaged(Tower):
        def __call__(self, inputs: np.ndarray) -> np.ndarray:
            return np.full((len(inputs), 64), number, np.float32)

    for encoder, data in (
        (TextEncoder(Damaged(), text.config), "a dog"),
        (VideoEncoder(Damaged(), video.head, video.config), frames),
    ):
        with pytest.raises(CheckpointError, match="embedding that is zero or not finite"):
            encoder(data)
