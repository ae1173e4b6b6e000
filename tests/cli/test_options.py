"""Shared options: their defaults, and the values of the package that they become."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command

from clip4clip.cli import app
from clip4clip.cli.embed import EngineOptions
from clip4clip.cli.index import IndexSamplingOptions
from clip4clip.cli.index_options import IndexEncoderOptions, IndexOptions
from clip4clip.cli.options import EncoderOptions, Precision, Runtime, SamplingOptions, Seek, WholeSamplingOptions
from clip4clip.encoder import EncoderSpec
from clip4clip.video import FrameSampling


def test_the_defaults_are_those_of_the_package() -> None:
    assert EncoderOptions().spec() == EncoderSpec()
    assert IndexEncoderOptions().spec() == EncoderSpec()
    assert SamplingOptions().sampling() == FrameSampling()
    assert EngineOptions().cluster() is None


def test_options_become_values_of_the_package() -> None:
    options = EncoderOptions("clip_vit_b16", "a.pt", "cpu", Runtime.torch, Precision.int8)
    assert options.spec() == EncoderSpec("clip_vit_b16", "a.pt", "cpu", "torch", "int8")
    assert SamplingOptions(3, Seek.keyframe, 10.0, 0.5).sampling() == FrameSampling(3, "keyframe", 10, 0.5)
    assert WholeSamplingOptions(3, Seek.keyframe).sampling() == FrameSampling(3, "keyframe", "whole")


@pytest.mark.parametrize(
    ("options", "of_index", "expected"),
    [
        (IndexSamplingOptions(), FrameSampling(3, "keyframe"), None),
        (IndexSamplingOptions(frames=5), FrameSampling(3, "keyframe"), FrameSampling(5, "keyframe")),
        (IndexSamplingOptions(seek=Seek.exact), FrameSampling(3, "keyframe"), FrameSampling(3, "exact")),
        (IndexSamplingOptions(frames=5), None, FrameSampling(5)),
        (IndexSamplingOptions(segments=10.0), FrameSampling(3, every=1), FrameSampling(3, segments=10, every=1)),
        (IndexSamplingOptions(every=1.0), FrameSampling(segments="shots"), FrameSampling(segments="shots", every=1)),
        (IndexSamplingOptions(seek=Seek.keyframe), None, FrameSampling(12, "keyframe")),
    ],
)
def test_the_sampling_of_an_index_applies_where_no_option_is_given(
    options: IndexSamplingOptions, of_index: FrameSampling | None, expected: FrameSampling | None
) -> None:
    class Index:
        sampling = of_index

    assert options.sampling(Index()) == expected  # type: ignore[arg-type]


def test_the_address_of_an_index_comes_from_the_environment(
    error_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert IndexOptions() == IndexOptions("./videos.db", "videos", None)
    monkeypatch.setenv("CLIP4CLIP_URI", "elsewhere.db")
    assert "no index at elsewhere.db" in error_of("search", "a")


@pytest.mark.parametrize(
    "arguments",
    [
        ["embed", "", "-o", "v.parquet"],
        ["embed", ".", "-o", " "],
        ["index", ""],
        ["eval", "two.txt", "--videos", ""],
        ["train", "two.txt", "--videos", ".", "--out", ""],
    ],
)
def test_an_empty_path_is_an_error(arguments: list[str], error_of: Callable[..., str]) -> None:
    assert "must not be empty" in error_of(*arguments)


@pytest.mark.parametrize("arguments", [["embed-video", "a.mp4"], ["index", "."]])
def test_more_frames_than_the_limit_are_an_error(arguments: list[str], error_of: Callable[..., str]) -> None:
    assert re.search("less than or equal to 10000|not in the range", error_of(*arguments, "-n", "99999999999999999999"))


def test_a_choice_that_does_not_exist_is_named_with_those_that_do(error_of: Callable[..., str]) -> None:
    assert "'fast' is not one of 'auto', 'exact', 'keyframe'" in error_of("embed-video", "a.mp4", "--seek", "fast")


def test_a_way_to_cut_videos_that_does_not_exist_is_an_error(error_of: Callable[..., str], tmp_path: Path) -> None:
    arguments = ("embed", ".", "-o", tmp_path / "v.parquet")
    message = "'scenes' is not one of 'auto', 'whole', 'shots', and no number of seconds"
    assert message in error_of(*arguments, "--segments", "scenes")
    assert message in error_of("index", ".", "--segments", "scenes")
    assert "segments must be a number of seconds from every = 1 on, not 0.5" in error_of(
        *arguments, "--segments", "0.5"
    )
    assert "every must be a number of seconds above 0, not nan" in error_of(*arguments, "--every", "nan")


def test_commands_for_whole_videos_have_no_option_to_cut_them(error_of: Callable[..., str]) -> None:
    assert "No such option" in error_of("embed-video", "a.mp4", "--segments", "10")


def test_every_option_has_a_sentence_of_help() -> None:
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for option in command.params:
            help_text = option.help or ""
            assert re.match("[A-Z]|float|exact|local|keyframe", help_text), f"{name} {option.name}: {help_text!r}"
            assert help_text.endswith("."), f"{name} {option.name}: {help_text!r}"
