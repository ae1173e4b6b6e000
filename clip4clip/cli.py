"""The command line. Every command hands over to a function of the package."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from . import __version__
from .errors import Clip4clipError, VideoIndexError
from .files import whole_file

if TYPE_CHECKING:
    import numpy as np

    from .retrieval.evaluation import Evaluation
    from .retrieval.index import VideoIndex

app = typer.Typer(
    help="Find videos by a sentence: text and video to vectors in one space (CLIP4Clip).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out, err = Console(), Console(stderr=True)

ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", help="clip_vit_b32, clip_vit_b16, or clip_vit_tiny_demo: a toy trained on drawings."),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="FILE|FOLDER|hf://OWNER/REPO[@REV][/FILE]",
        help="Checkpoint. Without it: pytorch_model.bin.1 beside the operator, or else the default on the hub.",
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", "-d", help="cpu, cuda:1, mps, … Without it: the best there is.")
]


class Runtime(str, Enum):
    """What computes."""

    torch = "torch"
    onnxruntime = "onnxruntime"


class Precision(str, Enum):
    """In which numbers."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"


RuntimeOption = Annotated[
    Runtime | None, typer.Option(help="Without it: the faster one, onnxruntime on a CPU where it is installed.")
]
PrecisionOption = Annotated[
    Precision, typer.Option(help="int8 is the fastest on a CPU, float16 on a GPU; vectors differ a little.")
]
FramesOption = Annotated[
    int, typer.Option("--frames", "-n", min=1, help="Frames to take from each video, spread evenly.")
]


class Seek(str, Enum):
    """How exact a frame has to be."""

    exact = "exact"
    keyframe = "keyframe"


SeekOption = Annotated[
    Seek,
    typer.Option(help="keyframe takes the key frames nearest to the frames due: much cheaper, less exact."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE.npz",
        help="Write vectors (float32, a row each) and names here, instead of printing.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, with the whole vector.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also say which weights, head and tensors are used.")
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
    texts: Annotated[list[str], typer.Argument(metavar='"TEXT"…', help="Sentences, each in quotes.")],
    model: ModelOption = "clip_vit_b32",
    weights: WeightsOption = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = Precision.float32,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn sentences into vectors.

    Example: clip4clip embed-text "kids feeding and playing with the horse" -o query.npz
    """
    _check_output(output)
    from .encoder import TextEncoder

    with err.status(f"loading {model}"):
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
    """Turn videos into vectors, one for each.

    A file that cannot be read is reported at the end and the others go on; the exit code is then 1.
    Ctrl-C keeps what is done.

    Example: clip4clip embed-video holiday.mp4 party.mov -o videos.npz
    """
    _check_output(output)
    import numpy as np

    from .encoder import VideoEncoder
    from .video import read_frames

    with err.status(f"loading {model}"):
        encoder = VideoEncoder.load(model, weights, **_how(device, runtime, precision))
    vectors: dict[str, np.ndarray] = {}
    failed: dict[str, str] = {}
    with _interruptible() as (progress, stopped):
        task = progress.add_task("embedding", total=len(files))
        for file in files:
            progress.update(task, description=Path(file).name)
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
    """Where videos are embedded."""

    local = "local"
    ray = "ray"


WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Videos to decode at once; default: one per core. On Ray, of each actor.")
]
UriOption = Annotated[
    str,
    typer.Option(
        envvar="CLIP4CLIP_URI",
        metavar="FILE.db|http(s)://HOST:PORT",
        help="The index: a local file (milvus-lite), a Milvus server, or Zilliz Cloud.",
    ),
]
CollectionOption = Annotated[str, typer.Option(envvar="CLIP4CLIP_COLLECTION", help="Of the index.")]
TokenOption = Annotated[
    str | None, typer.Option(envvar="CLIP4CLIP_TOKEN", help="USER:PASSWORD or key, where a server asks for one.")
]
IndexModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="Default: the one whose vectors the index has, or clip_vit_b32.")
]


@app.command()
def embed(
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER|TABLE.csv|LIST.txt", help="Videos; a list has a path or URL a line.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.parquet", help="Table of the vectors.")],
    videos: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="What paths in a table or list are relative to; default: its own folder."),
    ] = None,
    frames: FramesOption = 12,
    seek: SeekOption = Seek.exact,
    model: ModelOption = "clip_vit_b32",
    weights: WeightsOption = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = Precision.float32,
    workers: WorkersOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try the videos again that failed.")] = False,
    engine: Annotated[Engine, typer.Option(help="ray: on a cluster, whose machines must see the same paths.")] = (
        Engine.local
    ),
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster; default: $RAY_ADDRESS, or else one started here.")
    ] = None,
    actors: Annotated[int | None, typer.Option(min=1, help="Of Ray; default: as many as there is room for.")] = None,
    gpus: Annotated[float, typer.Option(min=0, help="That each actor of Ray takes.")] = 0,
) -> None:
    """Embed a library of videos into a table, and go on where it stopped.

    Stop it at any moment, by Ctrl-C or a kill: the same command goes on. Run
    again later, it embeds what is new or has changed. A video that cannot be
    read has a row that says why, and is listed at the end; the exit code is
    then 1.

    The table is Parquet: id, path, vector, duration, frame_count, model,
    fingerprint, size, mtime, error. Add it to an index with clip4clip index.

    Example: clip4clip embed ~/Videos -o vectors.parquet
    """
    _check_output(output)
    with err.status(f"loading {model}"):
        from .retrieval.library import embed_library
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
        err.print("stopped: what is done is kept, and the same command goes on", highlight=False)
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
    source: Annotated[Path, typer.Argument(metavar="TABLE.parquet|FOLDER", help="A table of vectors, or videos.")],
    uri: UriOption = "./videos.db",
    collection: CollectionOption = "videos",
    token: TokenOption = None,
    frames: Annotated[
        int | None, typer.Option("--frames", "-n", min=1, help="Of each video; default: as the index, or 12.")
    ] = None,
    seek: Annotated[Seek | None, typer.Option(help="exact or keyframe; default: as the index, or exact.")] = None,
    model: IndexModelOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = Precision.float32,
    workers: WorkersOption = None,
) -> None:
    """Put videos into an index, to be found by clip4clip search and serve.

    A table that clip4clip embed wrote is added; what the index has already is
    replaced. A folder is synchronised: new videos are embedded and added,
    changed ones embedded anew, vanished ones dropped; only a folder needs the
    options of the model.

    Examples: clip4clip index vectors.parquet
    clip4clip index ~/Videos --uri http://localhost:19530
    """
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
        err.print("stopped: what is done is kept, and the same command goes on", highlight=False)
        raise typer.Exit(130)
    _list_failed(missed)
    err.print(f"{told}; {count} videos in {collection!r} of {uri}", highlight=False, markup=False, soft_wrap=True)
    if missed:
        raise typer.Exit(1)


@app.command()
def search(
    text: Annotated[str | None, typer.Argument(metavar='["TEXT"]', help="What the videos are to show.")] = None,
    video: Annotated[
        str | None, typer.Option(metavar="FILE|URL", help="Instead of a text: find videos like this one.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-k", min=1, max=16384, help="How many videos.")] = 10,
    where: Annotated[
        str, typer.Option("--filter", metavar="EXPRESSION", help="Milvus's, such as 'duration < 60'.")
    ] = "",
    uri: UriOption = "./videos.db",
    collection: CollectionOption = "videos",
    token: TokenOption = None,
    model: IndexModelOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = Precision.float32,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Find videos by a sentence, or by a video.

    Examples: clip4clip search "kids feeding a horse"
    clip4clip search --video clip.mp4 -k 5 --json
    """
    if (text is None) == (video is None):
        raise typer.BadParameter("give either a text or --video", param_hint="TEXT")
    with (
        err.status("opening the index"),
        _open_index(uri, collection, token, model, weights, _how(device, runtime, precision)) as videos,
    ):
        hits = videos.search(text, video=video, limit=limit, filter=where)
    if as_json:
        for hit in hits:
            told = {"id": hit.id, "score": hit.score, "path": hit.path}
            told |= {name: value for name, value in hit.fields.items() if name not in told}
            print(json.dumps(told, ensure_ascii=False))
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
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in; set a password then.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    user: Annotated[str | None, typer.Option(envvar="CLIP4CLIP_USER", help="Asked for, with --password.")] = None,
    password: Annotated[str | None, typer.Option(envvar="CLIP4CLIP_PASSWORD", help="Asked for, with --user.")] = None,
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
    """Open a page to search an index with, in a browser.

    Only videos that the index names can be fetched through it. It speaks HTTP:
    for other machines, put it behind a proxy that speaks HTTPS.

    Example: clip4clip serve --uri ./videos.db
    """
    if (user is None) != (password is None):
        raise typer.BadParameter("--user and --password go together", param_hint="--user")
    with err.status("opening the index"):
        from .retrieval.page import run_page

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
        typer.Argument(metavar='["TEXT"…]', help="Sentences of your own to search for, each in quotes."),
    ] = None,
    to: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Gets the clips, their captions and results.png.")
    ] = Path("clip4clip_demo"),
    clips: Annotated[int, typer.Option(min=1, max=500, help="How many clips to draw and to search.")] = 36,
    device: DeviceOption = None,
) -> None:
    """See it work, offline: draw clips, and find them by sentences through Towhee.

    The model, clip_vit_tiny_demo, comes with this package. It is trained on
    such drawings: good for trying things out, not for real footage. What it is
    to find here are combinations that it was never trained on.

    Example: clip4clip demo "two big green stars going round and round on a
    chess board"
    """
    from .demo import BEST, MODEL, PICTURE, run_demo, save_picture

    began = time.perf_counter()
    with _progress() as progress:
        found = run_demo(
            to,
            sentences or [],
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
        typer.Option("--towhee-home", metavar="FOLDER", help="Without it: $TOWHEE_HOME, or else ~/.towhee."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an operator that this command did not place.")
    ] = False,
) -> None:
    """Place the operators where Towhee looks first, so that its pipelines find them offline.

    These are ops.video_text_embedding.clip4clip, ops.video_decode.ffmpeg,
    ops.ann_insert.milvus_client and ops.ann_search.milvus_client.
    """
    from .install import install_operators as install

    for path in install(towhee_home, force):
        out.print(f"placed {path}", highlight=False, soft_wrap=True, markup=False)


PairsArgument = Annotated[
    Path,
    typer.Argument(metavar="PAIRS", help="CSV or JSON Lines with video and sentence, or a table of MSR-VTT."),
]
VideosOption = Annotated[
    Path, typer.Option("--videos", metavar="FOLDER", help="Folder that the videos in the table are relative to.")
]
CaptionsOption = Annotated[
    Path | None,
    typer.Option(
        "--captions",
        metavar="MSRVTT_data.json",
        help="Sentences for a table that has none. Without it: MSRVTT_data.json beside the table.",
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
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures here; - is standard output.")
    ] = None,
    histogram: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also draw how many queries have which rank.")
    ] = None,
) -> None:
    """Measure how well sentences find their videos, and videos their sentences.

    Tells R@1, R@5 and R@10 (percent), median and mean rank. Equal similarities
    share the average of their ranks. Of several sentences of a video,
    video→text counts the best. A video that cannot be decoded counts as a miss
    and is listed; the exit code is then 1.

    Example: clip4clip eval MSRVTT_JSFUSION_test.csv --videos MSRVTT/videos/all
    --json figures.json
    """
    _check_output(as_json if str(as_json) != "-" else None, "--json")
    _check_output(histogram, "--histogram")
    from .encoder import TextEncoder, VideoEncoder
    from .pairs import read_pairs
    from .retrieval import evaluation

    if histogram is not None:
        evaluation.check_histogram(histogram)
    table = read_pairs(pairs, videos, captions)
    with err.status(f"loading {model}"):
        how = _how(device, runtime, precision)
        encoders = TextEncoder.load(model, weights, **how), VideoEncoder.load(model, weights, **how)
    with _progress() as progress:
        found = evaluation.evaluate(
            table,
            *encoders,
            frames,
            seek.value,
            lambda items, total, what: progress.track(items, total, description=what),
        )
    if str(as_json) == "-":
        print(json.dumps(found.to_dict(), ensure_ascii=False))
    else:
        out.print(_metrics_table(found))
        if as_json is not None:
            as_json.write_text(json.dumps(found.to_dict(), ensure_ascii=False, indent=2) + "\n", "utf-8")
    if histogram is not None:
        evaluation.save_histogram(found, histogram)
    _list_missed(found)


@app.command()
def train(
    pairs: PairsArgument,
    videos: VideosOption,
    to: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Gets last.safetensors, best.safetensors and log.jsonl.")
    ],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    captions: CaptionsOption = None,
    eval_pairs: Annotated[
        Path | None, typer.Option(metavar="PAIRS", help="Evaluate on these after every epoch, and keep the best.")
    ] = None,
    eval_videos: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the videos of --eval-pairs; default: --videos.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without pairs that cannot be used.")] = False,
    model: ModelOption = "clip_vit_b32",
    init: Annotated[
        str | None,
        typer.Option(metavar="FILE|FOLDER|hf://…|random", help="Weights to begin with; default: those of the model."),
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="meanP, seqLSTM or seqTransf; default: the head that --init has.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs in a step, over all processes.")] = 128,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Compute a batch in this many parts: the same result in less memory.")
    ] = 1,
    lr: Annotated[float, typer.Option(help="Highest learning rate of CLIP's parameters.")] = 1e-7,
    new_lr: Annotated[float, typer.Option(help="Highest learning rate of the head, new or of --init.")] = 1e-4,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW, on matrices alone.")] = 0.2,
    warmup: Annotated[float, typer.Option(help="Part of all steps in which the learning rate rises.")] = 0.1,
    max_grad_norm: Annotated[float, typer.Option(help="Longer gradients are cut to this norm.")] = 1.0,
    freeze_layers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Keep the embeddings and the first N layers of both towers; -1 trains all. "
            "Default: 0, as the paper does, or -1 for --init random.",
        ),
    ] = None,
    frames: FramesOption = 12,
    max_words: Annotated[int, typer.Option(help="Token ids of a sentence, its two marks included.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Decides on initialisation, order and frames.")] = 42,
    device: DeviceOption = None,
    precision: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16; default: bfloat16 on a GPU that has it, else float32."),
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Gradient checkpointing: less memory, a third more computation.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode; default: one per core, at most 8.")
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, metavar="STEPS", help="How often the state is kept.")] = 100,
    save_dtype: Annotated[str, typer.Option(help="float32 or float16, of the checkpoints.")] = "float32",
) -> None:
    """Fine-tune on pairs of a video and a sentence, by the protocol of the
    CLIP4Clip paper.

    Ctrl-C keeps the state after the step at hand; --resume goes on from it. All
    videos are looked at before anything is trained. Those of --eval-pairs that
    cannot be decoded are listed at the end; the exit code is then 1. Several
    GPUs or machines: torchrun --nproc-per-node 8 -m clip4clip train …

    Example: clip4clip train MSRVTT_train.9k.csv --videos MSRVTT/videos/all
    --out run --eval-pairs MSRVTT_JSFUSION_test.csv
    """
    from .training.trainer import TrainingConfig
    from .training.trainer import train as run

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
            err.print(f"stopped after step {result.steps}; the same command with --resume goes on", highlight=False)
        raise typer.Exit(130)
    if is_first:
        err.print(f"wrote {to / 'last.safetensors'} after {result.steps} steps", highlight=False, markup=False)
    if result.evaluation is not None:
        out.print(_metrics_table(result.evaluation))
        _list_missed(result.evaluation)


@app.command()
def synthetic(
    to: Annotated[Path, typer.Argument(metavar="FOLDER", help="Gets train.csv, eval.csv and the clips.")],
    train: Annotated[int, typer.Option(min=0, help="Clips to train with.")] = 24_000,
    evaluation: Annotated[int, typer.Option("--eval", min=0, help="Clips to evaluate on.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Another one draws other clips.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")] = None,
) -> None:
    """Draw short clips of moving shapes, with captions, to train and to measure
    small models on.

    The clips of eval.csv show combinations of a shape, a colour and a
    background that those of train.csv never do; eval_paraphrased.csv says the
    same in other sentences. Clips that are there already are kept: stop it at
    will, and the same command goes on.

    Example: clip4clip synthetic drawings --train 2000 --eval 200
    """
    from .training.synthetic import write_dataset

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
        err.print(f"wrote {table}", highlight=False, markup=False)


def main() -> None:
    """Runs the command line; an error of the package or of the file system becomes a sentence and the exit code 2."""
    try:
        app()
    except (Clip4clipError, OSError) as error:
        err.print(f"[red]error[/] {_plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)


def _give(kind: str, names: list[str], vectors: np.ndarray, output: Path | None, as_json: bool) -> None:
    if output is not None:
        import numpy as np

        with whole_file(output) as fresh, fresh.open("wb") as file:
            np.savez(file, **{"vectors": vectors, f"{kind}s": np.array(names)})  # type: ignore[arg-type]
        err.print(f"wrote {len(names)} vectors to {output}", highlight=False, markup=False)
    if as_json:
        for name, vector in zip(names, vectors, strict=True):
            print(json.dumps({kind: name, "vector": vector.tolist()}, ensure_ascii=False))
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
        err.print(f"[red]{how}[/] {_plain(message)}", highlight=False, soft_wrap=True)


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
    from .retrieval.index import VideoIndex, is_local

    if not new and is_local(uri) and not Path(uri).exists():
        raise VideoIndexError(f"there is no index {uri}: make it by `clip4clip index`")
    return VideoIndex(uri, collection, token=token, model_name=model, weights=weights, **how)


def _check_output(output: Path | None, option: str = "--output") -> None:
    """Before the work, not after it."""
    if output is not None and not output.parent.is_dir():
        raise typer.BadParameter(f"the folder {output.parent} does not exist", param_hint=option)
    if output is not None and output.is_dir():
        raise typer.BadParameter(f"{output} is a folder; the name of a file is due", param_hint=option)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
