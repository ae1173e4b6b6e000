"""The commands that work with an index: ``index``, ``search`` and ``serve``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from ..errors import LibraryError, VideoIndexError
from .console import err, out, plain
from .options import MAX_FRAMES, EncoderOptions, Seek, WorkersOption, parse_path
from .output import list_failures, print_json, print_summary
from .progress import interruptible_progress
from .texts import read_texts

if TYPE_CHECKING:
    from ..encoder import EncoderSpec
    from ..index.hit import Hit
    from ..index.video_index import VideoIndex
    from ..progress import Track
    from ..video import FrameSampling


@dataclass(frozen=True)
class IndexOptions:
    """Which index to use."""

    uri: Annotated[
        str,
        typer.Option(
            envvar="CLIP4CLIP_URI",
            metavar="FOLDER.db|http(s)://HOST:PORT",
            help="Where the index is: a local folder (Milvus Lite), a Milvus server, or Zilliz Cloud.",
        ),
    ] = "./videos.db"
    collection: Annotated[
        str, typer.Option(envvar="CLIP4CLIP_COLLECTION", help="Name of the collection in the index.")
    ] = "videos"
    token: Annotated[
        str | None,
        typer.Option(envvar="CLIP4CLIP_TOKEN", help="USER:PASSWORD or an API key, if the server requires one."),
    ] = None

    def open(self, encoder: EncoderSpec, create: bool = False) -> VideoIndex:
        """Open the index.

        Args:
            encoder: which model computes the vectors of queries and new videos.
            create: accept a local folder that does not exist yet.

        Raises:
            VideoIndexError: the index does not exist, or cannot be opened.
            MissingExtraError, ImportError: a package of the extra ``retrieval`` is missing.
        """
        from ..index.address import is_local
        from ..index.video_index import VideoIndex

        if is_local(self.uri):
            import milvus_lite  # noqa: F401  if it is missing, pymilvus reports that the index does not answer

            if not create and not Path(self.uri).exists():
                raise VideoIndexError(f"no index at {self.uri}: create it with `clip4clip index`")
        return VideoIndex(self.uri, self.collection, token=self.token, encoder=encoder)


@dataclass(frozen=True)
class IndexEncoderOptions(EncoderOptions):
    """Which encoder to use with an index, which records its own model."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Name of the model. Default: the model of the vectors in the index. A new index gets clip_vit_b32.",
        ),
    ] = None


@dataclass(frozen=True)
class IndexSamplingOptions:
    """Which frames of each new video to take; by default as the index records it."""

    frames: Annotated[
        int | None,
        typer.Option(
            "--frames",
            "-n",
            min=1,
            max=MAX_FRAMES,
            help="Number of frames to take from each video. Default: as in the index; 12 for a new index.",
        ),
    ] = None
    seek: Annotated[
        Seek | None,
        typer.Option(help="How to select frames: exact or keyframe. Default: as in the index; exact for a new index."),
    ] = None

    def sampling(self, index: VideoIndex) -> FrameSampling | None:
        """Return the sampling that these options describe; None for that of the index."""
        if self.frames is None and self.seek is None:
            return None
        from ..video import FrameSampling

        default = index.sampling or FrameSampling()
        return FrameSampling(self.frames or default.frames, self.seek.value if self.seek else default.seek)


def index(
    source: Annotated[
        Path,
        typer.Argument(
            parser=parse_path,
            metavar="TABLE.parquet|FOLDER",
            help="A table that `clip4clip embed` wrote, or a folder of videos.",
        ),
    ],
    address: IndexOptions,
    sampling: IndexSamplingOptions,
    encoder: IndexEncoderOptions,
    workers: WorkersOption = None,
) -> None:
    """Put videos into an index, for `search` and `serve`.

    With a folder, its videos are embedded, and the index is made to match the
    folder: new videos are added, changed ones are re-embedded, and deleted ones
    are removed from the index.

    With a table, its rows are added to the index, or replace rows with the same
    id. --model, if given, must be the table's. The other options for the model,
    and those for frames and workers, are not used. Tables come from `clip4clip
    embed`: use it if other programs need the vectors, too, or if you fill
    several indexes. Both commands can be resumed.

    A video of a folder that cannot be read is listed at the end, and the exit
    code is then 1. Videos that failed in `clip4clip embed` are left out.

    Examples:
        clip4clip index ~/Videos
        clip4clip index vectors.parquet --uri http://localhost:19530
    """
    if not source.exists():
        raise LibraryError(
            f"no folder or table at {source}: expected a folder of videos or a table that `clip4clip embed` wrote. "
            "The index is unchanged"
        )
    failures: dict[str, str] = {}
    with (
        address.open(encoder.spec(), create=True) as videos,
        interruptible_progress("videos/s") as progress,
    ):
        if source.is_dir():
            summary, failures = _sync_folder(videos, source, sampling, workers, progress.track)
        else:
            summary = f"{videos.add(source, track=progress.track)} added or replaced"
        count = videos.count()
    progress.exit_if_stopped("finished videos are kept; run the same command to resume")
    list_failures(failures)
    print_summary(f"{summary}; {count} videos in collection {address.collection!r} of {address.uri}")
    if failures:
        raise typer.Exit(1)


def _sync_folder(
    videos: VideoIndex, folder: Path, sampling: IndexSamplingOptions, workers: int | None, track: Track
) -> tuple[str, dict[str, str]]:
    """Make an index match a folder. Return a summary, and the message of each video that failed."""
    report = videos.sync(folder, sampling.sampling(videos), workers=workers, track=track)
    summary = f"{report.added} added, {report.changed} changed, {report.removed} removed, {report.unchanged} unchanged"
    return summary, report.failed | report.unlisted


def search(
    *,
    text: Annotated[
        str | None,
        typer.Argument(
            metavar='"TEXT"', help="What the videos show. @FILE reads it from a file, - from standard input."
        ),
    ] = None,
    video: Annotated[
        str | None,
        typer.Option(metavar="FILE|URL", help="Find videos similar to this one, instead of searching by text."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-k", min=1, max=16384, help="Maximum number of videos to list.")] = (
        10
    ),
    condition: Annotated[
        str,
        typer.Option(
            "--filter",
            metavar="EXPRESSION",
            help="Condition on duration, frame_count, size, path, modified or fields of your own, in the syntax of "
            "Milvus: 'duration < 60', 'modified > \"2025-06-01\"'.",
        ),
    ] = "",
    address: IndexOptions,
    encoder: IndexEncoderOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Find videos by a sentence, or by a video.

    Lists the most similar videos of the index, best first.

    Examples:
        clip4clip search "kids feeding a horse"
        clip4clip search "kids feeding a horse" --filter "duration < 60"
        clip4clip search --video clip.mp4 -k 5 --json
    """
    if (text is None) == (video is None):
        raise typer.BadParameter("give either a text or --video", param_hint="TEXT")
    if video is not None and not video.strip():
        raise typer.BadParameter("the name of a video must not be empty", param_hint="--video")
    if text is not None:
        text, *others = read_texts([text])
        if others:
            raise typer.BadParameter("expected one sentence, but got several lines", param_hint="TEXT")
    with err.status("opening the index"), address.open(encoder.spec()) as videos:
        hits = videos.search(text, video=video, limit=limit, filter=condition)
    if as_json:
        for hit in hits:
            row = {"id": hit.id, "score": hit.score, "path": hit.path}
            print_json(row | {name: value for name, value in hit.fields.items() if name not in row})
    else:
        _print_hits(hits)


def _print_hits(hits: list[Hit]) -> None:
    if not hits:
        err.print("no videos were found", highlight=False)
        return
    table = Table("", "score", "length", Column("video", overflow="fold"))
    for rank, hit in enumerate(hits, 1):
        table.add_row(str(rank), f"{hit.score:.3f}", hit.length, plain(hit.path or str(hit.id)))
    out.print(table)


def serve(
    *,
    address: IndexOptions,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. 0.0.0.0 lets other machines connect: then set --user and --password."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 7860,
    user: Annotated[
        str | None,
        typer.Option(envvar="CLIP4CLIP_USER", help="User name that visitors must enter, together with --password."),
    ] = None,
    password: Annotated[
        str | None,
        typer.Option(envvar="CLIP4CLIP_PASSWORD", help="Password that visitors must enter, together with --user."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Another host name that visitors use, such as that of a proxy. Repeat the option for several names.",
        ),
    ] = None,
    encoder: IndexEncoderOptions,
) -> None:
    """Serve a web page for searching an index.

    Visitors can fetch only videos that are in the index. The page is served
    over HTTP: to serve other machines, also put it behind a proxy that adds
    HTTPS, or else passwords are sent unencrypted.

    Examples:
        clip4clip serve
        clip4clip serve --uri http://localhost:19530 --port 8080
    """
    if (user is None) != (password is None):
        raise typer.BadParameter("--user and --password go together", param_hint="--user")
    if user == "" or password == "":  # such as the value of a variable that is not set
        raise typer.BadParameter("--user and --password must not be empty", param_hint="--user")
    with err.status("opening the index"):
        from ..web.server import run_page

        videos = address.open(encoder.spec())
    with videos:
        run_page(
            videos,
            host,
            port,
            (user, password) if user is not None and password is not None else None,
            lambda url: print_summary(f"open {url} (Ctrl-C stops)"),
            allowed_host or (),
        )
