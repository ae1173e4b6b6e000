"""The command line. Every command calls a function of the package."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.status import Status
from rich.table import Column, Table
from rich.text import Text

from .. import __version__
from ..errors import Clip4clipError, LibraryError, VideoIndexError, printable
from ..files import atomic_write, check_writable, is_regular
from .console import SafeConsole

if TYPE_CHECKING:
    import numpy as np

    from ..evaluation.evaluate import Evaluation
    from ..index.video_index import VideoIndex

app = typer.Typer(
    help="Find videos by describing them: embeds text and video in one vector space (CLIP4Clip).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out, err = SafeConsole(emoji=False), SafeConsole(stderr=True, emoji=False)

MAX_FRAMES = 10_000
# The extra that brings a package which may be missing.
EXTRAS = {
    **dict.fromkeys(("pyarrow", "pymilvus", "milvus_lite", "gradio", "fastapi", "starlette", "uvicorn"), "retrieval"),
    **dict.fromkeys(("onnx", "onnxruntime"), "onnx"),
    "ray": "ray",
    "matplotlib": "plot",
    "tensorboard": "train",
}


# Of a wrong option or argument, and of whatever else Typer reports; it does not export them.
_UsageError, _TyperError = cast("tuple[type[typer.BadParameter], ...]", typer.BadParameter.__mro__[1:3])


def _path(name: str | Path) -> Path:
    """Return a path. An empty name is an error: it would mean the current folder."""
    if not str(name).strip():
        raise typer.BadParameter("the name of a file or folder must not be empty")
    return Path(name)


ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="clip_vit_b32, clip_vit_b16, or clip_vit_tiny_demo (trained on drawings, for trials)."
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="FILE|FOLDER|hf://OWNER/REPO[@REV][/FILE]",
        help="Checkpoint. Default: pytorch_model.bin.1 beside the operator, or the model's default on the hub.",
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", "-d", help="cpu, cuda:1, mps, … Default: the best one available.")
]


class Runtime(str, Enum):
    """The library that runs the model."""

    torch = "torch"
    onnxruntime = "onnxruntime"


class Precision(str, Enum):
    """The type of number that the model computes in."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"


RuntimeOption = Annotated[
    Runtime | None,
    typer.Option(help="Library that runs the model. Default: onnxruntime on a CPU if it is installed, else torch."),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        help="Numbers to compute in. int8 is the fastest on a CPU, float16 on a GPU; vectors differ a little."
    ),
]
FramesOption = Annotated[
    int,
    typer.Option("--frames", "-n", min=1, max=MAX_FRAMES, help="Number of frames to take from each video, evenly."),
]


class Seek(str, Enum):
    """How exactly frames are taken."""

    exact = "exact"
    keyframe = "keyframe"


SeekOption = Annotated[
    Seek,
    typer.Option(
        help="How to take frames: keyframe takes the nearest key frames, which is much faster and less exact."
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        parser=_path,
        metavar="FILE.npz",
        help="Write vectors (float32, one row each) and names to this file instead of printing them.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per line, with the whole vector.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also print which weights, head and tensors are used.")
    ] = False,
    version: Annotated[  # noqa: ARG001  its callback does the work
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=err, show_path=False, show_time=False)],
    )


@app.command()
def embed_text(
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar='"TEXT"…',
            help="Sentences, each in quotes. @FILE reads a UTF-8 file, - standard input: one sentence per line. "
            "A backslash before @ or - takes the text as it is.",
        ),
    ],
    model: ModelOption = "clip_vit_b32",
    weights: WeightsOption = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = Precision.float32,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn sentences into vectors.

    Examples: clip4clip embed-text "kids feeding and playing with the horse" -o query.npz
    clip4clip embed-text @sentences.txt -o queries.npz
    """
    _check_output(output, ".npz")
    texts = _read_texts(texts)
    from ..encoder import TextEncoder

    with _loading(model):
        encoder = TextEncoder.load(model, weights, **_how(device, runtime, precision))
    _give("text", texts, encoder(texts), output, as_json)


@app.command()
def embed_video(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Video files or http(s) URLs.")],
    frames: FramesOption = 12,
    seek: SeekOption = Seek.exact,
    model: ModelOption = "clip_vit_b32",
    weights: WeightsOption = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = Precision.float32,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a few videos into vectors, printed or in an .npz file.

    For a whole library use clip4clip embed, which can be resumed, or clip4clip
    index FOLDER, which makes the videos searchable at once. A file that cannot
    be read is listed at the end and does not stop the others; the exit code is
    then 1. Ctrl-C keeps the vectors that are done.

    Example: clip4clip embed-video holiday.mp4 party.mov -o videos.npz
    """
    _check_output(output, ".npz")
    for file in files:
        if not file.strip():
            raise typer.BadParameter("the name of a video must not be empty", param_hint="FILE")
    import numpy as np

    from ..encoder import VideoEncoder
    from ..video.reader import read_frames

    with _loading(model):
        encoder = VideoEncoder.load(model, weights, **_how(device, runtime, precision))
    vectors: dict[str, np.ndarray] = {}
    failed: dict[str, str] = {}
    with _interruptible() as (progress, stopped):
        task = progress.add_task("embedding", total=len(files))
        for file in files:
            progress.update(task, description=_plain(Path(file).name))
            try:
                vectors[file] = encoder(read_frames(file, frames, seek=seek.value))
            except Clip4clipError as error:
                failed[file] = str(error)
            progress.advance(task)
            if stopped.is_set():
                break
    if vectors:
        _give("path", list(vectors), np.stack(list(vectors.values())), output, as_json)
    _list_failed(failed)
    if stopped.is_set():
        err.print(f"stopped: {len(vectors)} of {len(files)} videos are done", highlight=False)
        raise typer.Exit(130)
    if failed:
        err.print(f"{len(failed)} of {len(files)} videos failed", highlight=False)
        raise typer.Exit(1)


class Engine(str, Enum):
    """Where the work is done."""

    local = "local"
    ray = "ray"


WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="Number of videos to decode at once, on Ray by each actor. Default: one per core."),
]
UriOption = Annotated[
    str,
    typer.Option(
        envvar="CLIP4CLIP_URI",
        metavar="FILE.db|http(s)://HOST:PORT",
        help="The index: a local file (milvus-lite), a Milvus server, or Zilliz Cloud.",
    ),
]
CollectionOption = Annotated[
    str, typer.Option(envvar="CLIP4CLIP_COLLECTION", help="Name of the collection in the index.")
]
TokenOption = Annotated[
    str | None, typer.Option(envvar="CLIP4CLIP_TOKEN", help="USER:PASSWORD or a key, if the server needs one.")
]
IndexModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Default: the model that the index was made with; clip_vit_b32 for a new index."
    ),
]


@app.command()
def embed(
    source: Annotated[
        Path,
        typer.Argument(
            parser=_path,
            metavar="FOLDER|TABLE.csv|LIST.txt",
            help="Videos: a folder; a table (.csv, .tsv, .jsonl, .json) with a column path; "
            "or a list with one path or URL per line.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", parser=_path, metavar="FILE.parquet", help="Write the table of vectors here."),
    ],
    videos: Annotated[
        Path | None,
        typer.Option(
            parser=_path,
            metavar="FOLDER",
            help="Folder that paths in a table or list are relative to. Default: the folder of the table.",
        ),
    ] = None,
    frames: FramesOption = 12,
    seek: SeekOption = Seek.exact,
    model: ModelOption = "clip_vit_b32",
    weights: WeightsOption = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = Precision.float32,
    workers: WorkersOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try videos again that failed before.")] = False,
    engine: Annotated[
        Engine, typer.Option(help="local, or ray for a Ray cluster whose machines see the same paths.")
    ] = (Engine.local),
    address: Annotated[
        str | None, typer.Option(help="Address of the Ray cluster. Default: $RAY_ADDRESS, or a cluster started here.")
    ] = None,
    actors: Annotated[int | None, typer.Option(min=1, help="Number of Ray actors. Default: as many as fit.")] = None,
    gpus: Annotated[float, typer.Option(min=0, help="Number of GPUs for each Ray actor.")] = 0,
) -> None:
    """Embed a library of videos into a Parquet table; resumes where it stopped.

    For large libraries, for other programs, or to fill several indexes. For a
    few videos use clip4clip embed-video; to search one folder and keep its
    index up to date, clip4clip index FOLDER is enough.

    The same command resumes after Ctrl-C or a kill. Run again later, it embeds
    new and changed videos. A video that cannot be read has a row that says why,
    and is listed at the end; the exit code is then 1.

    The table is Parquet: id, path, vector, duration, frame_count, model,
    fingerprint, size, mtime, error. Add it to an index with clip4clip index.

    Example: clip4clip embed ~/Videos -o vectors.parquet
    """
    _check_output(output, ".parquet")
    with _loading(model):
        from ..library.embed import embed_library
    with _interruptible("videos/s") as (progress, stopped):
        report = embed_library(
            source,
            output,
            folder=videos,
            model_name=model,
            weights=weights,
            **_how(device, runtime, precision),
            frames=frames,
            seek=seek.value,
            workers=workers,
            retry_failed=retry_failed,
            engine=engine.value,
            address=address,
            actors=actors,
            gpus=gpus,
            track=_tracker(progress, stopped),
        )
    if stopped.is_set():
        err.print("stopped: finished videos are kept; run the same command to resume", highlight=False)
        raise typer.Exit(130)
    _list_failed(report.failed | report.unlisted)
    done = report.videos - len(report.failed)
    err.print(
        f"{done} of {report.videos} videos are in {output}: {report.embedded} looked at now"
        f" in {report.seconds:.0f} s, {report.kept} known before, {len(report.failed)} failed",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if report.failed or report.unlisted:
        raise typer.Exit(1)


@app.command()
def index(
    source: Annotated[
        Path,
        typer.Argument(
            parser=_path,
            metavar="TABLE.parquet|FOLDER",
            help="A table that clip4clip embed wrote, or a folder of videos.",
        ),
    ],
    uri: UriOption = "./videos.db",
    collection: CollectionOption = "videos",
    token: TokenOption = None,
    frames: Annotated[
        int | None,
        typer.Option(
            "--frames",
            "-n",
            min=1,
            max=MAX_FRAMES,
            help="Number of frames to take from each video. Default: that of the index; 12 for a new one.",
        ),
    ] = None,
    seek: Annotated[
        Seek | None,
        typer.Option(help="How to take frames: exact or keyframe. Default: as in the index; exact for a new one."),
    ] = None,
    model: IndexModelOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = Precision.float32,
    workers: WorkersOption = None,
) -> None:
    """Put videos into an index for clip4clip search and serve.

    A folder is the short way: its videos are embedded here, and the index is
    synchronised with it (new videos are added, changed ones re-embedded,
    deleted ones removed). A table comes from clip4clip embed, which suits large
    libraries as it can be resumed; its rows are added or replaced, and the
    options of the model are not used.

    Examples: clip4clip index vectors.parquet
    clip4clip index ~/Videos --uri http://localhost:19530
    """
    if not source.exists():
        raise LibraryError(
            f"no folder or table at {source}: expected a folder of videos or a table that `clip4clip embed` wrote. "
            "The index is unchanged"
        )
    with (
        _open_index(uri, collection, token, model, weights, _how(device, runtime, precision), new=True) as videos,
        _interruptible("videos/s") as (progress, stopped),
    ):
        track = _tracker(progress, stopped)
        missed: dict[str, str] = {}
        if source.is_dir():
            way = seek.value if seek else None
            report = videos.sync(source, frames=frames, seek=way, workers=workers, track=track)
            told = (
                f"{report.added} added, {report.changed} changed, {report.dropped} dropped, "
                f"{report.unchanged} as before"
            )
            missed = report.failed | report.unlisted
        else:
            told = f"{videos.add(source, track=track)} added or replaced"
        count = videos.count()
    if stopped.is_set():
        err.print("stopped: finished videos are kept; run the same command to resume", highlight=False)
        raise typer.Exit(130)
    _list_failed(missed)
    err.print(f"{told}; {count} videos in {collection!r} of {uri}", highlight=False, markup=False, soft_wrap=True)
    if missed:
        raise typer.Exit(1)


@app.command()
def search(
    text: Annotated[
        str | None,
        typer.Argument(
            metavar='["TEXT"]', help="What the videos show. @FILE or - reads it from a file or standard input."
        ),
    ] = None,
    video: Annotated[
        str | None, typer.Option(metavar="FILE|URL", help="Find videos like this one, instead of by a text.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-k", min=1, max=16384, help="Largest number of videos to list.")
    ] = 10,
    where: Annotated[
        str,
        typer.Option("--filter", metavar="EXPRESSION", help="Condition in Milvus's syntax, such as 'duration < 60'."),
    ] = "",
    uri: UriOption = "./videos.db",
    collection: CollectionOption = "videos",
    token: TokenOption = None,
    model: IndexModelOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = Precision.float32,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Find videos by a sentence, or by a video.

    Examples: clip4clip search "kids feeding a horse"
    clip4clip search --video clip.mp4 -k 5 --json
    """
    if (text is None) == (video is None):
        raise typer.BadParameter("give either a text or --video", param_hint="TEXT")
    if video is not None and not video.strip():
        raise typer.BadParameter("the name of a video must not be empty", param_hint="--video")
    if text is not None:
        text, *others = _read_texts([text])
        if others:
            raise typer.BadParameter("expected one sentence, but got several lines", param_hint="TEXT")
    with (
        err.status("opening the index"),
        _open_index(uri, collection, token, model, weights, _how(device, runtime, precision)) as videos,
    ):
        hits = videos.search(text, video=video, limit=limit, filter=where)
    if as_json:
        for hit in hits:
            told = {"id": hit.id, "score": hit.score, "path": hit.path}
            told |= {name: value for name, value in hit.fields.items() if name not in told}
            _print_json(told)
        return
    if not hits:
        err.print("no videos were found", highlight=False)
        return
    table = Table("", "score", "length", Column("video", overflow="fold"))
    for place, hit in enumerate(hits, 1):
        table.add_row(str(place), f"{hit.score:.3f}", hit.length, _plain(hit.path or str(hit.id)))
    out.print(table)


@app.command()
def serve(
    uri: UriOption = "./videos.db",
    collection: CollectionOption = "videos",
    token: TokenOption = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. 0.0.0.0 lets other machines connect; set a password then.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 7860,
    user: Annotated[
        str | None,
        typer.Option(envvar="CLIP4CLIP_USER", help="User name that visitors must give, together with --password."),
    ] = None,
    password: Annotated[
        str | None,
        typer.Option(envvar="CLIP4CLIP_PASSWORD", help="Password that visitors must give, together with --user."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Another name the page is reached by, such as a proxy's; can be given several times."
        ),
    ] = None,
    model: IndexModelOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = Precision.float32,
) -> None:
    """Serve a web page to search an index with a browser.

    Visitors can fetch only videos that are in the index. It speaks HTTP: for
    other machines, put it behind a proxy that speaks HTTPS.

    Example: clip4clip serve --uri ./videos.db
    """
    if (user is None) != (password is None):
        raise typer.BadParameter("--user and --password go together", param_hint="--user")
    if user == "" or password == "":  # such as of a variable that is not set
        raise typer.BadParameter("--user and --password must not be empty", param_hint="--user")
    with err.status("opening the index"):
        from ..web.server import run_page

        videos = _open_index(uri, collection, token, model, weights, _how(device, runtime, precision))
    with videos:
        run_page(
            videos,
            host,
            port,
            (user, password) if user is not None and password is not None else None,
            lambda url: err.print(f"open {url} (Ctrl-C stops)", highlight=False, markup=False, soft_wrap=True),
            allowed_host or (),
        )


@app.command()
def demo(
    sentences: Annotated[
        list[str] | None,
        typer.Argument(
            metavar='["TEXT"…]',
            help="Sentences of your own to search for, each in quotes. @FILE or - reads one per line.",
        ),
    ] = None,
    to: Annotated[
        Path,
        typer.Option(
            "--out",
            parser=_path,
            metavar="FOLDER",
            help="Folder for the clips, their captions and results.png.",
        ),
    ] = Path("clip4clip_demo"),
    clips: Annotated[int, typer.Option(min=1, max=500, help="Number of clips to draw and to search.")] = 36,
    device: DeviceOption = None,
) -> None:
    """Try it offline: draw clips, and find them by sentences through Towhee.

    The model, clip_vit_tiny_demo, comes with this package. It is trained on
    such drawings: good for trials, not for real footage. The clips show
    combinations that it was never trained on.

    Example: clip4clip demo "two big green stars going round and round on a
    chess board"
    """
    sentences = _read_texts(sentences or [])
    from ..demo import BEST, MODEL, PICTURE, run_demo, save_picture

    if to.is_dir():
        _check_output(to / PICTURE, None, "--out")
    began = time.perf_counter()
    with _progress() as progress:
        found = run_demo(
            to,
            sentences,
            clips,
            device,
            lambda items, total, what: progress.track(items, total, description=what),
        )
    save_picture(found, to / PICTURE)
    for sentence in found.shown():
        table = Table("", "score", "clip", "what it shows", title=_plain(f"“{found.sentences[sentence]}”"))
        table.title_justify, table.title_style = "left", "bold"
        for place, clip in enumerate(found.best(sentence, BEST), 1):
            style = "green" if clip == found.matches[sentence] else None
            score = f"{found.similarity[sentence, clip]:.3f}"
            table.add_row(str(place), score, found.clips[clip].name, _plain(found.captions[clip]), style=style)
        out.print(table)
    metrics = found.metrics
    out.print(
        f"All {metrics.queries} captions against all {len(found.clips)} clips: R@1 {metrics.recall_at_1:.0f} %, "
        f"R@5 {metrics.recall_at_5:.0f} %, R@10 {metrics.recall_at_10:.0f} %. Green is the clip that the sentence "
        f"describes.\nThe model is {MODEL}, trained on drawings such as these: not for real footage.\n"
        f"Look at {to / PICTURE}; {to / 'eval.csv'} names the clips. ({time.perf_counter() - began:.0f} s)",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@app.command()
def install_operators(
    towhee_home: Annotated[
        Path | None,
        typer.Option(
            "--towhee-home",
            parser=_path,
            metavar="FOLDER",
            help="Towhee's folder. Default: $TOWHEE_HOME, or ~/.towhee.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an operator that this command did not place.")
    ] = False,
) -> None:
    """Place the operators where Towhee looks first, so that its pipelines find them offline.

    These are ops.video_text_embedding.clip4clip, ops.video_decode.ffmpeg,
    ops.ann_insert.milvus_client and ops.ann_search.milvus_client.
    """
    from ..operators.install import install_operators as install

    for path in install(towhee_home, force):
        out.print(f"placed {path}", highlight=False, soft_wrap=True, markup=False)


PairsArgument = Annotated[
    Path,
    typer.Argument(
        parser=_path,
        metavar="PAIRS",
        help="Table (.csv, .tsv, .jsonl, .json) with the columns video and sentence, or a table of MSR-VTT.",
    ),
]
VideosOption = Annotated[
    Path,
    typer.Option(
        "--videos", parser=_path, metavar="FOLDER", help="Folder that the videos in the table are relative to."
    ),
]
CaptionsOption = Annotated[
    Path | None,
    typer.Option(
        "--captions",
        parser=_path,
        metavar="MSRVTT_data.json",
        help="Sentences for a table that has none. Default: MSRVTT_data.json beside the table.",
    ),
]


@app.command("eval")
def evaluate(
    pairs: PairsArgument,
    videos: VideosOption,
    captions: CaptionsOption = None,
    frames: FramesOption = 12,
    seek: SeekOption = Seek.exact,
    model: ModelOption = "clip_vit_b32",
    weights: WeightsOption = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = Precision.float32,
    max_words: Annotated[
        int | None,
        typer.Option(
            min=3,
            help="Longest sentence in token ids, start and end marks included; the rest is cut. "
            "Default: as the model allows (77). The CLIP4Clip paper uses 32.",
        ),
    ] = None,
    as_json: Annotated[
        Path | None,
        typer.Option(
            "--json",
            parser=_path,
            metavar="FILE.json",
            help="Also write the figures to this file; - prints them instead of the table.",
        ),
    ] = None,
    histogram: Annotated[
        Path | None,
        typer.Option(
            parser=_path, metavar="FILE.png", help="Also draw a histogram of the ranks; needs the extra plot."
        ),
    ] = None,
) -> None:
    """Measure how well sentences find their videos, and videos their sentences.

    Prints R@1, R@5 and R@10 (percent), median and mean rank. Equal similarities
    share the average of their ranks. Of several sentences of a video,
    video→text counts the best. A video that cannot be decoded counts as a miss
    and is listed; the exit code is then 1.

    Example: clip4clip eval MSRVTT_JSFUSION_test.csv --videos MSRVTT/videos/all
    --json figures.json
    """
    _check_output(as_json if str(as_json) != "-" else None, ".json", "--json")
    _check_output(histogram, None, "--histogram")
    from ..encoder import TextEncoder, VideoEncoder
    from ..evaluation import evaluate as evaluation
    from ..evaluation.pairs import read_pairs

    if histogram is not None:
        evaluation.check_histogram(histogram)
    table = read_pairs(pairs, videos, captions)
    with _loading(model):
        how = _how(device, runtime, precision)
        encoders = TextEncoder.load(model, weights, **how), VideoEncoder.load(model, weights, **how)
    with _progress() as progress:
        found = evaluation.evaluate(
            table,
            *encoders,
            frames,
            seek.value,
            lambda items, total, what: progress.track(items, total, description=what),
            max_words,
        )
    if str(as_json) == "-":
        _print_json(found.to_dict())
    else:
        out.print(_metrics_table(found))
        if as_json is not None:
            text = json.dumps(found.to_dict(), indent=2) + "\n"
            _write(as_json, lambda path: path.write_text(text, "utf-8"))
    if histogram is not None:
        evaluation.save_histogram(found, histogram)
    _list_missed(found)


@app.command()
def train(
    pairs: PairsArgument,
    videos: VideosOption,
    to: Annotated[
        Path,
        typer.Option(
            "--out",
            parser=_path,
            metavar="FOLDER",
            help="Folder for last.safetensors, best.safetensors, log.jsonl and what --resume needs.",
        ),
    ],
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")] = False,
    captions: CaptionsOption = None,
    eval_pairs: Annotated[
        Path | None,
        typer.Option(
            parser=_path,
            metavar="PAIRS",
            help="Table of pairs to evaluate on after every epoch; the best checkpoint is kept.",
        ),
    ] = None,
    eval_videos: Annotated[
        Path | None,
        typer.Option(
            parser=_path, metavar="FOLDER", help="Folder of the videos of --eval-pairs. Default: that of --videos."
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out pairs that cannot be used, instead of refusing to train.")
    ] = False,
    model: ModelOption = "clip_vit_b32",
    init: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|FOLDER|hf://…|random",
            help="Weights to start from; random for an untrained network. Default: those of the model.",
        ),
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Pooling of the frames: meanP, seqLSTM or seqTransf. Default: as in --init.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Number of times that every pair is seen.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of pairs in a step, over all processes.")] = 128,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Number of parts to compute a batch in: the same result with less memory.")
    ] = 1,
    lr: Annotated[float, typer.Option(help="Highest learning rate of CLIP's parameters.")] = 1e-7,
    new_lr: Annotated[float, typer.Option(help="Highest learning rate of the head's parameters.")] = 1e-4,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW; applies to matrices only.")] = 0.2,
    warmup: Annotated[
        float, typer.Option(help="Fraction of all steps in which the learning rate rises, 0 to 1.")
    ] = 0.1,
    max_grad_norm: Annotated[
        float, typer.Option(help="Largest norm of the gradient; longer ones are scaled down.")
    ] = 1.0,
    freeze_layers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Do not train the embeddings and the first N layers of both towers; -1 trains everything. "
            "Default: 0, as in the paper, or -1 for --init random.",
        ),
    ] = None,
    frames: FramesOption = 12,
    max_words: Annotated[int, typer.Option(help="Longest sentence in token ids, start and end marks included.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Seed for initialisation, order and frames.")] = 42,
    device: DeviceOption = None,
    precision: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16. Default: bfloat16 on a GPU that supports it, else float32."),
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Use gradient checkpointing: less memory, a third more computation.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Number of processes that decode videos. Default: one per core, at most 8."),
    ] = None,
    save_every: Annotated[
        int, typer.Option(min=1, metavar="STEPS", help="Number of steps between two saved states.")
    ] = 100,
    save_dtype: Annotated[str, typer.Option(help="Numbers in the checkpoints: float32 or float16.")] = "float32",
) -> None:
    """Fine-tune on pairs of a video and a sentence, by the protocol of the
    CLIP4Clip paper.

    Ctrl-C saves the state after the current step; --resume continues from it.
    All videos are checked before the training starts. Those of --eval-pairs
    that cannot be decoded are listed at the end; the exit code is then 1. For
    several GPUs or machines: torchrun --nproc-per-node 8 -m clip4clip train …

    Example: clip4clip train MSRVTT_train.9k.csv --videos MSRVTT/videos/all
    --out run --eval-pairs MSRVTT_JSFUSION_test.csv
    """
    from ..training.trainer import TrainingConfig
    from ..training.trainer import train as run

    config = TrainingConfig(
        pairs=pairs,
        videos=videos,
        out=to,
        model=model,
        init=init,
        head=head,
        captions=captions,
        eval_pairs=eval_pairs,
        eval_videos=eval_videos,
        skip_bad=skip_bad,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        new_lr=new_lr,
        weight_decay=weight_decay,
        warmup=warmup,
        max_grad_norm=max_grad_norm,
        freeze_layers=freeze_layers,
        frames=frames,
        max_words=max_words,
        seed=seed,
        device=device,
        precision=precision,
        recompute=recompute,
        workers=workers,
        save_every=save_every,
        save_dtype=save_dtype,
    )
    result = run(config, resume)
    is_first = os.environ.get("RANK", "0") == "0"  # torchrun starts this command many times
    if not result.finished:
        if is_first:
            err.print(
                f"stopped after step {result.steps}; run the same command with --resume to continue", highlight=False
            )
        raise typer.Exit(130)
    if is_first:
        err.print(
            f"wrote {_plain(to / 'last.safetensors')} after {result.steps} steps", highlight=False, soft_wrap=True
        )
    if result.evaluation is not None:
        out.print(_metrics_table(result.evaluation))
        _list_missed(result.evaluation)


@app.command()
def synthetic(
    to: Annotated[
        Path,
        typer.Argument(parser=_path, metavar="FOLDER", help="Folder for train.csv, eval.csv and the clips."),
    ],
    train: Annotated[int, typer.Option(min=0, max=10_000_000, help="Number of clips to train with.")] = 24_000,
    evaluation: Annotated[int, typer.Option("--eval", min=0, help="Number of clips to evaluate on.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawings; another one gives other clips.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Number of processes. Default: one per core.")
    ] = None,
) -> None:
    """Draw short clips of moving shapes, with captions, to train and evaluate
    small models.

    The clips of eval.csv show combinations of a shape, a colour and a
    background that those of train.csv never show; eval_paraphrased.csv
    describes the same clips in other sentences. Clips that exist already are
    kept, so the same command resumes where it was stopped.

    Example: clip4clip synthetic drawings --train 2000 --eval 200
    """
    from ..training.synthetic import write_dataset

    with _progress() as progress:
        tables = write_dataset(
            to,
            train,
            evaluation,
            seed,
            workers,
            lambda done, total: progress.track(done, total, description="drawing clips"),
        )
    for table in tables:
        err.print(f"wrote {_plain(table)}", highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; an error of this package or of the system becomes a sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character shows the rest
    threading.excepthook = _report_thread
    try:
        sys.exit(app(standalone_mode=False))
    except _TyperError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            sys.exit(2)
        hint = f". See: {error.ctx.command_path} --help" if isinstance(error, _UsageError) and error.ctx else ""
        _fail(error.format_message().rstrip(".") + hint)
    except typer.Abort:
        _fail("stopped", 130)
    except (Clip4clipError, OSError) as error:
        _fail(_sentence(error))
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        extra = f"[{EXTRAS[package]}]" if package in EXTRAS else ""
        _fail(f"{error}. This command needs it: pip install 'towhee-clip4clip{extra}'")


def _report_thread(failed: threading.ExceptHookArgs) -> None:
    """Report an error of the system in a thread, such as TensorBoard's on a full disk, as one in the main thread."""
    if isinstance(failed.exc_value, OSError):
        err.print(f"[red]error[/] {escape(_sentence(failed.exc_value))}", highlight=False, soft_wrap=True)
    else:
        threading.__excepthook__(failed)


def _sentence(error: Exception) -> str:
    """Return what an error says; of one of the system, the file and what is wrong with it, without the number."""
    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, str):
        return f"{printable(error.filename)}: {error.strerror}"
    return str(error)


def _fail(message: str, code: int = 2) -> NoReturn:
    err.print(f"[red]error[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(code)


def _give(kind: str, names: list[str], vectors: np.ndarray, output: Path | None, as_json: bool) -> None:
    if output is not None:
        import numpy as np

        def save(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **{"vectors": vectors, f"{kind}s": np.array(names)})  # type: ignore[arg-type]

        _write(output, save)
        err.print(f"wrote {len(names)} vectors to {_plain(output)}", highlight=False, soft_wrap=True)
    if as_json:
        for name, vector in zip(names, vectors, strict=True):
            _print_json({kind: name, "vector": vector.tolist()})
    elif output is None:
        table = Table(kind, f"vector (first 4 of {vectors.shape[1]})", "norm")
        for name, vector in zip(names, vectors, strict=True):
            first = "  ".join(f"{value:+.4f}" for value in vector[:4])
            table.add_row(_plain(name), first, f"{float((vector**2).sum() ** 0.5):.6f}")
        out.print(table)


def _metrics_table(found: Evaluation) -> Table:
    table = Table("", "R@1", "R@5", "R@10", "MdR", "MnR", title=f"{found.pairs} sentences, {found.videos} videos")
    for name, metrics in (("text → video", found.text_to_video), ("video → text", found.video_to_text)):
        recalls = metrics.recall_at_1, metrics.recall_at_5, metrics.recall_at_10
        table.add_row(name, *(f"{figure:.1f}" for figure in (*recalls, metrics.median_rank, metrics.mean_rank)))
    return table


def _list_missed(found: Evaluation) -> None:
    """What an evaluation could not decode; the exit code is then 1."""
    _list_failed(found.failed, "missed")
    if found.failed:
        err.print(f"{len(found.failed)} of {found.videos} videos failed and count as misses", highlight=False)
        raise typer.Exit(1)


class _SpeedColumn(TextColumn):
    def __init__(self, unit: str) -> None:
        super().__init__("")
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self._unit}" if task.speed else "")


def _progress(speed: str | None = None) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    told = (_SpeedColumn(speed),) if speed else ()
    # Videos come in batches: a speed over half a minute would jump.
    return Progress(*columns, *told, TimeRemainingColumn(), console=err, transient=True, speed_estimate_period=300)


def _tracker(progress: Progress, stopped: threading.Event) -> Callable[[Iterable[Any], int, str], Iterator[Any]]:
    """A progress bar that also notices Ctrl-C where the exception of the signal was lost."""

    def track(items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
        for item in progress.track(items, total or None, description=what):
            yield item
            if stopped.is_set():
                raise KeyboardInterrupt

    return track


def _list_failed(failed: dict[str, str], how: str = "failed") -> None:
    for message in failed.values():
        err.print(f"[red]{how}[/] {escape(message)}", highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _interruptible(speed: str | None = None) -> Iterator[tuple[Progress, threading.Event]]:
    """A progress bar, and an event: Ctrl-C ends the block, also while the bar goes away, and sets the event.

    The event has to be asked now and then: an exception from a signal is lost where it strikes in a callback from C.
    """
    stopped = threading.Event()

    def stop(*_: object) -> None:
        stopped.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        with _progress(speed) as progress:
            yield progress, stopped
    except KeyboardInterrupt:
        stopped.set()
    finally:
        signal.signal(signal.SIGINT, before)


def _how(device: str | None, runtime: Runtime | None, precision: Precision) -> dict[str, Any]:
    """What the encoders are told of where and how to compute."""
    return {"device": device, "runtime": runtime.value if runtime else None, "precision": precision.value}


def _open_index(
    uri: str,
    collection: str,
    token: str | None,
    model: str | None,
    weights: str | None,
    how: dict[str, Any],
    new: bool = False,
) -> VideoIndex:
    """The index, which may be new or must be there."""
    from ..index.video_index import VideoIndex, is_local

    if is_local(uri):
        import milvus_lite  # noqa: F401  without it pymilvus says that the index does not answer
    if not new and is_local(uri) and not Path(uri).exists():
        raise VideoIndexError(f"no index at {uri}: create it with `clip4clip index`")
    return VideoIndex(uri, collection, token=token, model_name=model, weights=weights, **how)


def _check_output(output: Path | None, ending: str | None, option: str = "--output") -> None:
    """Check that a file can be written, before the work and not after it."""
    if output is None:
        return
    problem = None
    if output.is_dir():
        problem = f"{output} is a folder; expected the name of a file"
    elif not output.parent.is_dir():
        problem = f"the folder {output.parent} does not exist"
    elif ending and is_regular(output) and output.suffix.lower() != ending:
        problem = f"{output} would be written as {ending}, so its name must end in {ending}"
    else:
        try:
            check_writable(output)
        except OSError as error:
            problem = f"{output} cannot be written: {error.strerror}"
    if problem:
        raise typer.BadParameter(problem, param_hint=option)


def _write(output: Path, write: Callable[[Path], object]) -> None:
    """Write a file. If that fails, its content is kept in a temporary folder: it may have taken hours."""
    try:
        with atomic_write(output) as fresh:
            write(fresh)
    except OSError as error:
        kept = Path(tempfile.mkdtemp(prefix="clip4clip-"), output.name)
        write(kept)
        raise OSError(f"{output} cannot be written: {error.strerror or error}. The result is in {kept}") from error


def _read_texts(arguments: list[str]) -> list[str]:
    """Replace ``@FILE`` and ``-`` by the lines of a file and of standard input, and check all texts."""
    texts: list[str] = []
    for argument in arguments:
        if argument == "-" or argument.startswith("@"):
            where = "standard input" if argument == "-" else argument[1:]
            if not where:
                raise typer.BadParameter("expected the name of a file after @", param_hint="TEXT")
            try:
                content = sys.stdin.buffer.read() if argument == "-" else Path(where).read_bytes()
                lines = io.StringIO(content.decode("utf-8-sig"), newline=None).read().rstrip()
            except UnicodeDecodeError as error:
                raise typer.BadParameter(
                    f"{where} is not text in UTF-8; expected one sentence per line", param_hint="TEXT"
                ) from error
            except OSError as error:
                backslash = f"; for a sentence that begins with @ write \\{argument}" if argument != "-" else ""
                raise typer.BadParameter(
                    f"{where} cannot be read: {error.strerror}{backslash}", param_hint="TEXT"
                ) from error
            if not lines:
                raise typer.BadParameter(f"{where} is empty; expected one sentence per line", param_hint="TEXT")
            texts += lines.split("\n")
        else:
            texts.append(argument.removeprefix("\\") if argument.startswith(("\\@", "\\-")) else argument)
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise typer.BadParameter(f"text {number} of {len(texts)} is empty", param_hint="TEXT")
        if re.search("[\ud800-\udfff]", text):
            raise typer.BadParameter(f"text {number} of {len(texts)} is not UTF-8: {text}", param_hint="TEXT")
    return texts


def _print_json(value: dict[str, Any]) -> None:
    """Print one line of JSON, with escapes for what the terminal would obey or cannot show."""
    line = json.dumps(value, ensure_ascii=False)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
        is_plain = printable(line) == line
    except UnicodeEncodeError:
        is_plain = False
    print(line if is_plain else json.dumps(value))


def _loading(model: str) -> Status:
    return err.status(f"loading {_plain(model)}")


def _plain(name: object) -> str:
    """Return a name for :meth:`Console.print`: in one line, and without a meaning as markup."""
    return escape(printable(str(name)))
