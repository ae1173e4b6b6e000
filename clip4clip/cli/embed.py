"""The commands that compute vectors: ``embed-text``, ``embed-video`` and ``embed``."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import Clip4clipError, LibraryError
from .options import (
    EncoderOptions,
    SamplingOptions,
    VectorOutputOptions,
    WholeSamplingOptions,
    WorkersOption,
    parse_path,
)
from .output import check_output, list_failures, output_vectors, print_summary
from .progress import interruptible_progress, loading_status
from .texts import read_texts

if TYPE_CHECKING:
    import numpy as np

    from ..library.embed import EmbedReport
    from ..library.ray_engine import RayCluster


def embed_text(
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar='"TEXT"',
            help="Sentences, each in quotes. @FILE reads them from a UTF-8 file, - from standard input, one per line. "
            "To embed a text that begins with @ or -, put a backslash in front of it.",
        ),
    ],
    encoder: EncoderOptions,
    output: VectorOutputOptions,
) -> None:
    """Turn sentences into vectors, printed or in an .npz file.

    Vectors of sentences and of videos can be compared if they come from the
    same model: the dot product is the similarity, from -1 to 1.

    Examples:
        clip4clip embed-text "kids feeding and playing with the horse"
        clip4clip embed-text @sentences.txt -o queries.npz
    """
    check_output(output.output, ".npz")
    sentences = read_texts(texts)
    with loading_status(encoder.model):
        text_encoder = encoder.spec().text_encoder()
    output_vectors("text", sentences, text_encoder(sentences), output)


def embed_video(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Video files or http(s) URLs.")],
    sampling: WholeSamplingOptions,
    encoder: EncoderOptions,
    output: VectorOutputOptions,
) -> None:
    """Turn a few videos into vectors, printed or in an .npz file.

    Each video gets one vector, however long it is. For a large library, and for
    the moments within long videos, use `clip4clip embed`, which can be resumed.
    To make the videos of a folder searchable, use `clip4clip index FOLDER`.

    A video that cannot be read does not stop the others. It is listed at the
    end, and the exit code is then 1. Ctrl-C keeps the vectors that are done.

    Examples:
        clip4clip embed-video holiday.mp4 party.mov -o videos.npz
    """
    check_output(output.output, ".npz")
    if not all(file.strip() for file in files):
        raise typer.BadParameter("the name of a video must not be empty", param_hint="FILE")
    import numpy as np

    from ..video.reader import read_sampled

    with loading_status(encoder.model):
        video_encoder = encoder.spec().video_encoder()
    vectors: dict[str, np.ndarray] = {}
    failures: dict[str, str] = {}
    with interruptible_progress() as progress:
        for file in progress.track(files, len(files), "embedding"):
            progress.describe(Path(file).name)
            try:
                vectors[file] = video_encoder(read_sampled(file, sampling.sampling()))
            except Clip4clipError as error:
                failures[file] = str(error)
    if vectors:
        output_vectors("path", list(vectors), np.stack(list(vectors.values())), output)
    list_failures(failures)
    progress.exit_if_stopped(f"{len(vectors)} of {len(files)} videos are done")
    if failures:
        print_summary(f"{len(failures)} of {len(files)} videos failed")
        raise typer.Exit(1)


class Engine(str, Enum):
    """What embeds the videos of a library."""

    local = "local"
    ray = "ray"


@dataclass(frozen=True)
class EngineOptions:
    """Whether this machine or a Ray cluster embeds the videos of a library."""

    engine: Annotated[
        Engine,
        typer.Option(
            help="local embeds on this machine; ray on a Ray cluster, whose machines must see the videos under the "
            "same paths."
        ),
    ] = Engine.local
    address: Annotated[
        str | None,
        typer.Option(help="Address of the Ray cluster. Default: $RAY_ADDRESS, else a cluster started on this machine."),
    ] = None
    actors: Annotated[int | None, typer.Option(min=1, help="Number of Ray actors. Default: as many as fit.")] = None
    gpus: Annotated[float, typer.Option(min=0, help="Number of GPUs for each Ray actor.")] = 0

    def cluster(self) -> RayCluster | None:
        """Return the cluster that these options describe; None for this machine."""
        if self.engine is Engine.local:
            return None
        from ..library.ray_engine import RayCluster

        return RayCluster(self.address, self.actors, self.gpus)


def embed(
    source: Annotated[
        Path,
        typer.Argument(
            parser=parse_path,
            metavar="FOLDER|TABLE.csv|LIST.txt",
            help="Videos: a folder; a table (.csv, .tsv, .jsonl, .json) with a column path; "
            "or a list with one path or URL per line.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", parser=parse_path, metavar="FILE.parquet", help="Write the table of vectors to this file."
        ),
    ],
    *,
    videos: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FOLDER",
            help="Folder that paths in a table or list are relative to. Default: the folder of the table or list.",
        ),
    ] = None,
    sampling: SamplingOptions,
    encoder: EncoderOptions,
    workers: WorkersOption = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Retry videos that failed in an earlier run.")
    ] = False,
    engine: EngineOptions,
) -> None:
    """Embed a library of videos into a Parquet table; resumes where it stopped.

    Use this command for large libraries, to use the vectors in other programs,
    or to fill several indexes. For a few videos use `clip4clip embed-video`. To
    search one folder, `clip4clip index FOLDER` is enough.

    After Ctrl-C or a crash, run the same command again to resume. Run it later
    to embed new and changed videos. A video that cannot be read gets a row with
    the reason. It is listed at the end, and the exit code is then 1.

    A video of up to 30 seconds gets one row in the table. A longer one is cut
    where its picture changes, and gets a row for each segment, so that a search
    finds the moment. --segments and --every change this.

    The columns of the table are id, video, path, start, end, vector, duration,
    frame_count, uniform, model, fingerprint, size, mtime and error. Add the
    table to an index with `clip4clip index`.

    Examples:
        clip4clip embed ~/Videos -o vectors.parquet
        clip4clip embed ~/Videos -o windows.parquet --segments 10 --every 1
    """
    check_output(output, ".parquet")
    with loading_status(encoder.model):
        from ..library.embed import embed_library

        cluster = engine.cluster()
    with interruptible_progress("videos/s") as progress, _explained_full_disk():
        report = embed_library(
            source,
            output,
            encoder.spec(),
            sampling.sampling(),
            folder=videos,
            workers=workers,
            retry_failed=retry_failed,
            cluster=cluster,
            track=progress.track,
            report_position=progress.describe_position,
        )
    progress.exit_if_stopped("finished videos are kept; run the same command to resume")
    _print_report(report, output)


@contextlib.contextmanager
def _explained_full_disk() -> Iterator[None]:
    """Raise LibraryError, with a message that says how to resume, if the disk is full in the block."""
    try:
        yield
    except OSError as error:
        if isinstance(error, Clip4clipError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        file = f"{error.filename}: " if error.filename else ""
        raise LibraryError(
            f"{file}{error.strerror}. Finished videos are kept: free some space and run the same command to resume"
        ) from error


def _print_report(report: EmbedReport, output: Path) -> None:
    """Print what was embedded and what failed. If anything failed, end the command with exit code 1."""
    failures = report.failed | report.unlisted
    list_failures(failures)
    embedded = report.videos - len(report.failed)
    segments = f", with {report.segments} segments" if report.segments != embedded else ""
    print_summary(
        f"{embedded} of {report.videos} videos are in {output}{segments} "
        f"({report.processed} processed in {report.seconds:.0f} s, {report.unchanged} unchanged, "
        f"{len(report.failed)} failed)"
    )
    if failures:
        raise typer.Exit(1)
