"""The command ``install-operators``: make the operators available to Towhee pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import out
from .options import parse_path


def install_operators(
    towhee_home: Annotated[
        Path | None,
        typer.Option(
            "--towhee-home",
            parser=parse_path,
            metavar="FOLDER",
            help="Towhee's folder. Default: $TOWHEE_HOME, or ~/.towhee.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an operator that this command did not install.")
    ] = False,
) -> None:
    """Install the operators into Towhee's folder, where pipelines find them offline.

    The operators are ops.video_text_embedding.clip4clip,
    ops.video_decode.ffmpeg, ops.ann_insert.milvus_client and
    ops.ann_search.milvus_client.

    Examples:
        clip4clip install-operators
    """
    from ..operators.install import install_operators as install

    for path in install(towhee_home, force):
        out.print(f"placed {path}", highlight=False, soft_wrap=True, markup=False)
