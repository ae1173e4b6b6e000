"""The options and groups of options that several commands share.

Most groups have a method that returns the value of the package that their options describe. Only that method imports
the package, so that ``--help`` imports neither torch nor numpy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..encoder import EncoderSpec
    from ..video import FrameSampling

MAX_FRAMES = 10_000
SEGMENTS = ("auto", "whole", "shots")
SEGMENTS_METAVAR = "auto|whole|shots|SECONDS"


def parse_path(name: str | Path) -> Path:
    """Return the path of an option or argument.

    Raises:
        BadParameter: the name is empty, which would mean the current folder.
    """
    if not str(name).strip():
        raise typer.BadParameter("the name of a file or folder must not be empty")
    return Path(name)


def parse_segments(text: str | float) -> str | float:
    """Return how to cut videos: one of ``SEGMENTS``, or the length of a window in seconds.

    Raises:
        BadParameter: the text is neither.
    """
    if text in SEGMENTS:
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not one of {', '.join(map(repr, SEGMENTS))}, and no number of seconds"
        ) from None


def parse_time(text: str | float) -> float:
    """Return a time in a video in seconds: ``750``, ``12:30`` and ``0:12:30`` are the same.

    Raises:
        BadParameter: the text is no time.
    """
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?)", str(text).strip(), re.ASCII)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a time: expected seconds, such as 750, or minutes, such as 12:30")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


class Runtime(str, Enum):
    """The library that runs the model."""

    torch = "torch"
    onnxruntime = "onnxruntime"


class Precision(str, Enum):
    """The number format that the model computes in."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"


class Seek(str, Enum):
    """How exactly frames are selected."""

    auto = "auto"
    exact = "exact"
    keyframe = "keyframe"


def complete_model(incomplete: str) -> list[str]:
    """Return the names of models that begin with what was typed, for the completion of the shell."""
    from ..config import MODELS

    return [name for name in MODELS if name.startswith(incomplete)]


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        autocompletion=complete_model,
        help="Name of the model; `clip4clip models` lists them. clip_vit_tiny_demo is trained on drawings and made for "
        "trials. Default: the network in the given weights or, without weights, clip_vit_b32.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", "-d", help="Device that runs the model: cpu, cuda:1, mps, … Default: the best one available."
    ),
]
FramesOption = Annotated[
    int,
    typer.Option(
        "--frames", "-n", min=1, max=MAX_FRAMES, help="Number of evenly spaced frames to take from each video."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of threads that decode videos (on a Ray cluster: in each actor). Default: one for each CPU core.",
    ),
]


@dataclass(frozen=True)
class EncoderOptions:
    """Which encoder to use.

    Commands that work with an index take :class:`clip4clip.cli.index_options.IndexEncoderOptions`, where the model may
    be None.
    """

    model: ModelOption = None
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="FILE|FOLDER|hf://OWNER/REPO[@REV][/FILE]",
            help="Checkpoint of the model, or any CLIP of open_clip or Hugging Face. Default: the published weights of "
            "--model. For clip_vit_b32, a pytorch_model.bin.1 in the folder of the Towhee operator comes before them. "
            "clip_vit_tiny_demo needs no download.",
        ),
    ] = None
    device: DeviceOption = None
    runtime: Annotated[
        Runtime | None,
        typer.Option(
            help="Library that runs the model. Default: onnxruntime on a CPU if it is installed and supports "
            "--precision, else torch."
        ),
    ] = None
    precision: Annotated[
        Precision,
        typer.Option(
            help="Number format to compute in. int8, with the extra onnx, is the fastest on a CPU. A lower precision "
            "changes the vectors slightly."
        ),
    ] = Precision.float32

    def spec(self) -> EncoderSpec:
        """Return the encoder that these options describe."""
        from ..encoder import EncoderSpec

        return EncoderSpec(
            self.model,
            self.weights,
            self.device,
            self.runtime.value if self.runtime else None,
            self.precision.value,
        )


@dataclass(frozen=True)
class WholeSamplingOptions:
    """Which frames of each video to take, for commands that compute one vector for each video."""

    frames: FramesOption = 12
    seek: Annotated[
        Seek,
        typer.Option(
            help="How to select frames. keyframe takes the nearest key frames: much faster, but less exact in time. "
            "auto takes exact frames."
        ),
    ] = Seek.auto

    def sampling(self) -> FrameSampling:
        """Return the sampling that these options describe."""
        from ..video import FrameSampling

        return FrameSampling(self.frames, self.seek.value, "whole")


@dataclass(frozen=True)
class SamplingOptions:
    """How to cut each video into segments, and which of its frames to take."""

    frames: FramesOption = 12
    seek: Annotated[
        Seek,
        typer.Option(
            help="How to select frames. exact takes exactly the frames that are asked for; keyframe the nearest key "
            "frames: much faster, but less exact in time; auto exact frames of videos that are not cut and, of others, "
            "key frames where they are close enough."
        ),
    ] = Seek.auto
    segments: Annotated[
        str,
        typer.Option(
            parser=parse_segments,
            metavar=SEGMENTS_METAVAR,
            help="How to cut videos into segments, each with a vector of its own, so that a search finds the moment in "
            "a long video. shots cuts where the picture changes; SECONDS into windows of this length, which overlap by "
            "half; whole cuts nothing; auto cuts videos of more than 30 seconds into shots.",
        ),
    ] = "auto"
    every: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Time between the frames of a video that is cut, of which --frames is ignored. Less finds shorter "
            "shots, and takes longer.",
        ),
    ] = 1.0

    def sampling(self) -> FrameSampling:
        """Return the sampling that these options describe."""
        from ..video import FrameSampling

        return FrameSampling(self.frames, self.seek.value, self.segments, self.every)


@dataclass(frozen=True)
class VectorOutputOptions:
    """What to do with vectors. Without options they are printed as a table."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=parse_path,
            metavar="FILE.npz",
            help="Write the vectors (float32, one row each) and their texts or paths to this file. They are then "
            "printed only with --json.",
        ),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line, with the whole vector.")] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class PairsOptions:
    """Which pairs of a video and a sentence to read."""

    pairs: Annotated[
        Path,
        typer.Argument(
            parser=parse_path,
            metavar="PAIRS",
            help="Table (.csv, .tsv, .jsonl, .json) with the columns video and sentence, or a table of MSR-VTT.",
        ),
    ]
    videos: Annotated[
        Path,
        typer.Option(
            "--videos",
            parser=parse_path,
            metavar="FOLDER",
            help="Folder that the videos in the table are relative to.",
        ),
    ]
    captions: Annotated[
        Path | None,
        typer.Option(
            "--captions",
            parser=parse_path,
            metavar="MSRVTT_data.json",
            help="Sentences for a table that has none. Default: MSRVTT_data.json in the folder of the table.",
        ),
    ] = None
