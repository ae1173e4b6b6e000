"""The groups of options of the commands that work with an index: which index, which encoder, which videos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import VideoIndexError
from .options import EncoderOptions, complete_model

if TYPE_CHECKING:
    from ..encoder import EncoderSpec
    from ..index.video_index import VideoIndex


CollectionOption = Annotated[
    str, typer.Option(envvar="CLIP4CLIP_COLLECTION", help="Name of the collection in the index.")
]
TokenOption = Annotated[
    str | None,
    typer.Option(envvar="CLIP4CLIP_TOKEN", help="USER:PASSWORD or an API key, if the server requires one."),
]


@dataclass(frozen=True)
class IndexOptions:
    """Which index to use."""

    uri: Annotated[
        str,
        typer.Option(
            envvar="CLIP4CLIP_URI",
            metavar="FILE.db|http(s)://HOST:PORT",
            help="Where the index is: a file on this machine, a Milvus server, or Zilliz Cloud.",
        ),
    ] = "./videos.db"
    collection: CollectionOption = "videos"
    token: TokenOption = None

    def arguments(self) -> list[str]:
        """Return the options that another command needs for the same index. A token is left out."""
        default = IndexOptions()
        options = {"--uri": (self.uri, default.uri), "--collection": (self.collection, default.collection)}
        return [word for name, (value, other) in options.items() if value != other for word in (name, value)]

    def open(self, encoder: EncoderSpec | None = None, create: bool = False) -> VideoIndex:
        """Open the index.

        Args:
            encoder: which model computes the vectors of queries and new videos; None for a command that needs none.
            create: accept a local file that does not exist yet.

        Raises:
            VideoIndexError: the index does not exist, or cannot be opened.
            MissingExtraError: a package of the extra ``retrieval`` or, for a server, ``milvus`` is missing.
        """
        from ..encoder import DEFAULT_ENCODER
        from ..index.address import is_local
        from ..index.video_index import VideoIndex

        if is_local(self.uri) and not create and not Path(self.uri).exists():
            raise VideoIndexError(f"no index at {self.uri}: create it with `clip4clip index`")
        return VideoIndex(self.uri, self.collection, token=self.token, encoder=encoder or DEFAULT_ENCODER)


@dataclass(frozen=True)
class IndexEncoderOptions(EncoderOptions):
    """Which encoder to use with an index, which records its own model."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete_model,
            help="Name of the model; `clip4clip models` lists them. Default: the model of the vectors in the index. A "
            "new index gets clip_vit_b32.",
        ),
    ] = None


@dataclass(frozen=True)
class FilterOptions:
    """Which videos of an index to take."""

    condition: Annotated[
        str,
        typer.Option(
            "--filter",
            metavar="EXPRESSION",
            help="Only videos that meet a condition on duration, frame_count, size, path, modified or fields of your "
            "own: 'duration < 60', 'path like \"/srv/%\"', 'camera == \"front\" and not exists title'.",
        ),
    ] = ""
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DATE", help='Only files changed on or after this day, or time: 2025-06-01, "2025-06-01 14:30".'
        ),
    ] = None
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="Only files changed on or before this day, or time.")
    ] = None

    @property
    def is_narrow(self) -> bool:
        """Whether not all videos are taken."""
        return bool(self.condition.strip()) or self.since is not None or self.until is not None
