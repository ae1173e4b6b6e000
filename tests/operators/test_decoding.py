"""``ops.video_decode.ffmpeg``; tests/video covers the decoding itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clips import write
from towhee import ops, pipe
from towhee.operator import PyOperator
from towhee.types import VideoFrame

import clip4clip  # noqa: F401  registers the operators with Towhee
from clip4clip import InputTypeError, InputValueError, UnknownNameError, VideoError, VideoNotFoundError
from clip4clip.operators.decoding import Ffmpeg
from clip4clip.video import read_frames

UNIFORM = {"sample_type": "uniform_temporal_subsample", "args": {"num_samples": 12}}


def test_the_operator_has_the_published_signature() -> None:
    parameters = inspect.signature(Ffmpeg).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "start_time": None, "end_time": None, "sample_type": None, "args": None,
    }  # fmt: skip
    assert issubclass(Ffmpeg, PyOperator)


def test_frames_are_towhees_video_frames(bigbuckbunny: Path) -> None:
    frames = list(Ffmpeg(**UNIFORM)(str(bigbuckbunny)))
    assert len(frames) == 12
    for frame in frames:
        assert type(frame) is VideoFrame
        assert (frame.shape, frame.dtype, frame.mode) == ((720, 1280, 3), np.uint8, "RGB")
        assert type(frame.timestamp) is int
        assert type(frame.key_frame) is int
    assert [frame.timestamp for frame in frames] == [int(index) * 40 for index in np.linspace(0, 131, 12).astype(int)]
    assert [frame.key_frame for frame in frames] == [1] + [0] * 11


def test_frames_are_decoded_when_they_are_needed(bigbuckbunny: Path) -> None:
    frames = Ffmpeg()(bigbuckbunny)
    assert isinstance(frames, Iterator)
    assert [next(frames).timestamp, next(frames).timestamp] == [0, 40]
    frames.close()


def test_all_frames_between_two_times_are_decoded(bigbuckbunny: Path) -> None:
    frames = list(Ffmpeg(start_time=1.0, end_time=1.2)(bigbuckbunny))
    assert [frame.timestamp for frame in frames] == [1000, 1040, 1080, 1120, 1160, 1200]
    every = [frame.rgb for frame in read_frames(bigbuckbunny, None, start_time=1.0, end_time=1.2)]
    np.testing.assert_array_equal(np.stack(frames), np.stack(every))


def test_seek_keyframe_decodes_only_key_frames(bigbuckbunny: Path) -> None:
    frames = Ffmpeg(sample_type="uniform_temporal_subsample", args={"num_samples": 12, "seek": "keyframe"})(
        bigbuckbunny
    )
    assert [(frame.timestamp, frame.key_frame) for frame in frames] == [(0, 1)]  # the video has only one


def test_a_short_video_gives_each_frame_once(tmp_path: Path) -> None:
    path = write(tmp_path / "short.mp4", count=5)
    assert [frame.timestamp for frame in Ffmpeg(**UNIFORM)(path)] == [0, 100, 200, 300, 400]


def test_frames_are_sampled_by_time_step(bigbuckbunny: Path) -> None:
    frames = Ffmpeg(start_time=0.5, end_time=4, sample_type="TIME_STEP_SAMPLE", args={"time_step": 1.5})(bigbuckbunny)
    assert [frame.timestamp for frame in frames] == [520, 2000, 3520]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sample_type": "random"}, UnknownNameError, "'random'; it must be None or one of uniform_temporal_subsample"),
        ({"sample_type": "uniform_temporal_subsample"}, InputValueError, "needs args={'num_samples': …}"),
        (
            {"sample_type": "time_step_sample", "args": {"num_samples": 3}},
            InputValueError,
            "needs args={'time_step': …}",
        ),
    ],
)
def test_wrong_arguments_are_errors_of_the_constructor(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Ffmpeg(**arguments)


def test_input_that_is_not_a_video_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputTypeError, match="must be a path, a URL, bytes or a binary file object, not int: 3"):
        list(Ffmpeg()(3))  # type: ignore[arg-type]
    with pytest.raises(VideoNotFoundError):
        list(Ffmpeg(**UNIFORM)(tmp_path / "nowhere.mp4"))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError):
        list(Ffmpeg(**UNIFORM)(tmp_path / "text.mp4"))


def test_the_operator_works_in_a_pipeline(bigbuckbunny: Path) -> None:
    decoder = ops.video_decode.ffmpeg(**UNIFORM)
    as_list = pipe.input("path").map("path", "frames", decoder).map("frames", "list", lambda x: list(x)).output("list")
    assert len(as_list(str(bigbuckbunny)).get()[0]) == 12
    one_by_one = pipe.input("path").flat_map("path", "frame", decoder).output("frame")
    assert one_by_one(str(bigbuckbunny)).size == 12
