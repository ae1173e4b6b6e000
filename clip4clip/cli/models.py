"""The command ``models``: which models there are, how good they are, and which ones are on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Column, Table

from .console import out, plain
from .options import complete_model
from .output import print_json

NOT_STATED = "not stated"
NOT_HERE = "no"
WIDE = 95  # columns of a terminal that has room for the names of the networks
# Of `clip4clip models NAME`: what is printed in front of each fact, and what behind its value.
LABELS = {
    "network": ("network", ""),
    "parameters": ("parameters", " million"),
    "resolution": ("images", " pixels wide and high"),
    "context_length": ("sentences", " tokens at most"),
    "vector": ("vectors", " numbers"),
    "aligned_with": ("aligned with", ""),
    "training": ("trained on", ""),
    "licence": ("licence", ""),
    "msrvtt_r1": ("MSR-VTT R@1", " %"),
    "coco_r1": ("COCO R@1", " %"),
    "coco_r5": ("COCO R@5", " %"),
    "flickr_r1": ("Flickr30k R@1", " %"),
    "imagenet": ("ImageNet", " %"),
    "sources": ("published in", ""),
    "note": ("note", ""),
    "weights": ("weights", ""),
    "megabytes": ("download", " MB"),
    "path": ("here", ""),
    "unverified": ("not checked", ""),
}


def models(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="Name of a model, to print everything about it.",
            autocompletion=complete_model,
        ),
    ] = None,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, with everything about a model.")
    ] = False,
) -> None:
    """List the models: network, size, licence, and published quality.

    `--model` takes these names. Quality is the percentage of sentences whose video
    (MSR-VTT) or image (COCO, Flickr30k) is the first or among the first five
    results, and of images classified correctly (ImageNet), without fine-tuning on
    that data set. A model whose last column says `yes` needs no download.

    Any other CLIP loads by --weights, without --model. docs/models.md explains this,
    and how to choose a model.

    Examples:
        clip4clip models
        clip4clip models pe_core_b16
        clip4clip models --json
    """
    from ..config import MODELS, get_model

    names = list(MODELS) if name is None else [name]
    for each in names:
        get_model(each)  # an unknown name is an error
    rows = [_describe(each) for each in names]
    if as_json:
        for row in rows:
            print_json(row)
    elif name is None:
        _print_table(rows)
    else:
        _print_facts(rows[0])


def _describe(name: str) -> dict[str, Any]:
    """Return all that is known about a model. A registered model has no published facts."""
    from ..config import get_model
    from ..model_facts import FACTS
    from ..weights.available import find_available

    model, facts = get_model(name), FACTS.get(name)
    config, path = model.config, find_available(name)
    return {
        "name": name,
        **(asdict(facts) if facts else {}),
        "vector": config.embed_dim if config else None,
        "resolution": None if config is None or model.aligned_with else config.resolution,
        "context_length": None if config is None or model.aligned_with else config.context_length,
        "aligned_with": model.aligned_with,
        "weights": model.default_weights,
        "path": None if path is None else str(path),
        "config": asdict(config) if config else None,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    is_wide = out.width >= WIDE
    table = Table(
        Column("name", no_wrap=True),
        *([Column("network", no_wrap=True)] if is_wide else []),
        Column("dim", justify="right"),
        Column("MB", justify="right"),
        Column("licence", no_wrap=True),
        Column("MSR-\nVTT\nR@1", justify="right"),
        Column("\nCOCO\nR@1", justify="right"),
        Column("Im-\nage\nNet", justify="right"),
        Column("here"),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    footnotes: dict[str, int] = {}
    for row in rows:
        sentence = row.get("unverified")
        number = footnotes.setdefault(sentence, len(footnotes) + 1) if sentence else None
        table.add_row(
            plain(row["name"] + (f" [{number}]" if number else "")),
            *([row.get("network", "")] if is_wide else []),
            str(row["vector"] or ""),
            f"{row['megabytes']:,}" if "megabytes" in row else "",
            row["licence"] or NOT_STATED if "licence" in row else "",
            *(_figure(row.get(key)) for key in ("msrvtt_r1", "coco_r1", "imagenet")),
            "yes" if row["path"] else "",
        )
    out.print(table)
    for sentence, number in footnotes.items():
        out.print(plain(f"[{number}] {sentence}"), highlight=False)
    out.print("Everything about one model: clip4clip models NAME", highlight=False)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _print_facts(row: dict[str, Any]) -> None:
    """Print what is known about one model, a line for each fact."""
    for key, (label, unit) in LABELS.items():
        if text := _fact(row, key):
            for line, part in enumerate(text.splitlines()):
                out.print(f"{'' if line else label:<15}{plain(part)}{unit}", highlight=False, soft_wrap=True)


def _fact(row: dict[str, Any], key: str) -> str:
    """Return what to print for a fact: "" if it is unknown, and a line for each part of a tuple."""
    value = row.get(key)
    if key == "licence" and key in row:
        return value or NOT_STATED
    if key == "path":
        return value or NOT_HERE
    if value is None:
        return ""
    if isinstance(value, tuple):
        return "\n".join(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
