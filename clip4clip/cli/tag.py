"""The command ``tag``: label the videos of a table or an index."""

from __future__ import annotations

import contextlib
import csv
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from ..files import atomic_write
from .console import out, plain
from .index_options import CollectionOption, IndexEncoderOptions, IndexOptions, TokenOption
from .options import parse_path
from .output import check_output, print_summary
from .progress import interruptible_progress, loading_status

if TYPE_CHECKING:
    from ..index.tags import Tagged
    from ..index.video_index import VideoIndex

SHOWN = 20  # rows that are printed if there is neither --output nor --store
COLUMNS = ("id", "video", "path", "start", "end", "label", "score")
WRITE_BATCH = 10_000  # rows of a Parquet table that are in memory at once


def tag(
    source: Annotated[
        str,
        typer.Argument(
            metavar="TABLE.parquet|URI",
            envvar="CLIP4CLIP_URI",
            help="A table that `clip4clip embed` wrote; or an index: a file, a Milvus server, or Zilliz Cloud.",
        ),
    ] = IndexOptions.uri,
    *,
    labels: Annotated[
        Path,
        typer.Option(
            "--labels", "-l", parser=parse_path, metavar="FILE.txt", help="The labels in UTF-8, one per line."
        ),
    ],
    template: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help='Sentence with {} for the label, such as the default, "a video of {}.".'),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Maximum number of labels of each video or segment.")] = 1,
    min_score: Annotated[
        float | None, typer.Option(metavar="SCORE", min=-1, max=1, help="Only labels with this score or a higher one.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=parse_path,
            metavar="FILE.parquet|FILE.csv",
            help="Write a table with a row for each label of a video or segment.",
        ),
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Store the labels in the index, as fields that filters can use.")
    ] = False,
    collection: CollectionOption = IndexOptions.collection,
    token: TokenOption = IndexOptions.token,
    encoder: IndexEncoderOptions,
) -> None:
    """Tag videos with labels of your own; no training is needed.

    Compares each video, and each segment of a video that is cut, with a
    sentence for each label, and takes the label that fits best. A score is the
    share that a label has among all labels: add labels such as "something else"
    for what the others do not cover. If the checkpoint does not record its
    logit scale, scores are cosine similarities.

    Without --output and --store, the first results are printed. With --store,
    each video or segment in the index gets the fields label and label_score,
    for the best label, and labels, the list of all up to --top. They replace
    earlier ones. After Ctrl-C, run the same command again to resume.

    Examples:
        clip4clip tag videos.db --labels labels.txt
        clip4clip tag videos.db --labels labels.txt --store --top 3
        clip4clip search "a goal" --filter 'label == "football"'
        clip4clip list --filter 'json_contains(labels, "rain")'
        clip4clip tag vectors.parquet --labels labels.txt -o labels.csv
    """
    is_table = source.lower().endswith(".parquet")
    if store and (is_table or output is not None):
        reason = f"it needs an index, and {source} is a table" if is_table else "give either --output or --store"
        raise typer.BadParameter(reason, param_hint="--store")
    if output is not None and output.suffix.lower() not in (".parquet", ".csv"):
        raise typer.BadParameter(f"{output}: its name must end in .parquet or .csv", param_hint="--output")
    check_output(output, None)
    with loading_status(encoder.model):
        from ..index.tags import read_labels, tag_table
        from ..index.values import TAG_TEMPLATE

        options: dict[str, Any] = {"labels": read_labels(labels), "top": top, "min_score": min_score}
        options["template"] = TAG_TEMPLATE if template is None else template
    shown: list[Tagged] = []
    summary = ""
    with contextlib.ExitStack() as stack:
        videos = None if is_table else stack.enter_context(_open(source, collection, token, encoder))
        progress = stack.enter_context(interruptible_progress("vectors/s"))
        if videos is None:
            tagged = tag_table(source, encoder=encoder.spec(), track=progress.track, **options)
        else:
            tagged = videos.tags(track=progress.track, **options)
        if store and videos is not None:
            summary = f"{videos.store_tags(tagged):,} changed of {videos.count_vectors():,} in {source}"
        elif output is not None:
            summary = f"{_write(tagged, output):,} labels are in {output}"
        else:
            shown = [*itertools.islice(tagged, SHOWN + 1)]
    progress.exit_if_stopped(
        "stored labels are kept; run the same command to resume" if store else "nothing was written"
    )
    if shown:
        _print(shown[:SHOWN])
    if len(shown) > SHOWN:
        summary = f"the first {SHOWN} are shown: --output writes all to a table, --store stores them in an index"
    elif not shown and not summary:
        summary = f"{source} has no vectors"
    if summary:
        print_summary(summary)


def _open(source: str, collection: str, token: str | None, encoder: IndexEncoderOptions) -> VideoIndex:
    return IndexOptions(source, collection, token).open(encoder.spec())


def _rows(tagged: Iterable[Tagged]) -> Iterator[dict[str, Any]]:
    """Yield a row of the output for each label."""
    for row in tagged:
        place = {name: getattr(row.hit, name) for name in COLUMNS[:5]}
        for label, score in row.tags:
            yield place | {"label": label, "score": score}


def _write(tagged: Iterable[Tagged], output: Path) -> int:
    """Write a table, and return its number of rows. The file appears when it is complete."""
    count = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal count
        for row in _rows(tagged):
            count += 1
            yield row

    with atomic_write(output) as temporary:
        (_write_csv if output.suffix.lower() == ".csv" else _write_parquet)(counted(), temporary)
    return count


def _write_csv(rows: Iterable[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(rows: Iterator[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = ("start", "end", "score")
    schema = pa.schema([(name, pa.float64() if name in numbers else pa.string()) for name in COLUMNS])
    with path.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while batch := list(itertools.islice(rows, WRITE_BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema))


def _print(tagged: Iterable[Tagged]) -> None:
    table = Table("label", "score", Column("time", no_wrap=True), Column("video", overflow="fold"))
    for row in tagged:
        for label, score in row.tags or [("", None)]:
            score_text = "" if score is None else f"{score:.3f}"
            table.add_row(plain(label), score_text, row.hit.time_range, plain(row.hit.path or str(row.hit.id)))
    out.print(table)
