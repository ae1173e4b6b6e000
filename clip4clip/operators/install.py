"""Places the operators in the folder where Towhee looks before it asks its hub."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InstallError
from ..files import atomic_write
from ..weights.locate import OPERATOR, towhee_home

MARK = "# Placed by `clip4clip install-operators`, which replaces this file when it is run again."

# What every placed __init__.py begins with. Towhee passes on only the message of an error.
NEEDS_PACKAGE = """\
import sys

try:
    import clip4clip.operators
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "clip4clip":
        raise
    message = (
        f"the operator in {__file__} needs the package towhee-clip4clip, which {sys.executable} does not find: "
        "pip install towhee-clip4clip, or pip install . in a clone of its repository"
    )
    raise ModuleNotFoundError(message, name=error.name) from error
"""

# Operator -> what its folder's __init__.py does: hand over to the installed package.
OPERATORS = {
    OPERATOR: """\
from functools import partial
from pathlib import Path

clip4clip = partial(clip4clip.operators.Clip4clip, folder=Path(__file__).parent)
""",
    "video-decode/ffmpeg": """\
ffmpeg = clip4clip.operators.ffmpeg
""",
    "ann-insert/milvus-client": """\
milvus_client = clip4clip.operators.MilvusInsert
""",
    "ann-search/milvus-client": """\
milvus_client = clip4clip.operators.MilvusSearch
""",
}


def install_operators(home: str | os.PathLike[str] | None = None, force: bool = False) -> list[Path]:
    """Places ``video-text-embedding/clip4clip`` and its companions, all of ``OPERATORS``, under ``home``.

    Each becomes a folder with one file that hands over to the installed package, so an upgrade of the package is an
    upgrade of the operators. Other files in these folders, such as a checkpoint, are left alone.

    Args:
        home: Towhee's folder; None for :func:`clip4clip.weights.locate.towhee_home`.
        force: also replace an ``__init__.py`` that was not placed by this function.

    Returns:
        The files placed.

    Raises:
        InstallError: when one of the folders has an operator not placed by this function; none is touched.
    """
    root = Path(home).expanduser() if home is not None else towhee_home()
    files = {root / "operators" / name / "versions" / "main" / "__init__.py": code for name, code in OPERATORS.items()}
    foreign = [path for path in files if not _is_ours(path)]
    if foreign and not force:
        raise InstallError(
            f"not placed by clip4clip, and left alone: {', '.join(map(str, foreign))}. "
            "Pass --force (force=True) to replace it, or another Towhee folder."
        )
    for path, code in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        # A hub download is made of symlinks, whose targets are not ours to write to.
        with atomic_write(path, replace_link=True) as fresh:
            fresh.write_text(f"{MARK}\n{NEEDS_PACKAGE}\n{code}", encoding="utf-8")
    return list(files)


def _is_ours(path: Path) -> bool:
    """Whether the operator at ``path`` may be replaced: it was placed by us, or there is none."""
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace").startswith(MARK)
    return not any(path.parent.glob("*.py")) and not path.is_symlink()
