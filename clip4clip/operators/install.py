"""Install the operators into Towhee's folder, where Towhee looks for them before it asks its hub."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InstallError
from ..files import atomic_write
from ..weights.locate import OPERATOR, towhee_home

MARK = "# Placed by `clip4clip install-operators`, which replaces this file when it is run again."

# The beginning of every installed __init__.py. Towhee shows only the message of an error, so it must be complete.
IMPORT_PACKAGE = """\
import sys

try:
    import clip4clip.operators
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "clip4clip":
        raise
    message = (
        f"the operator in {__file__} needs the package towhee-clip4clip, which {sys.executable} cannot find: "
        "pip install towhee-clip4clip, or pip install . in a clone of its repository"
    )
    raise ModuleNotFoundError(message, name=error.name) from error
"""

# The rest of the __init__.py of each operator. It takes the factory from the installed package.
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
    """Place ``video-text-embedding/clip4clip`` and the other :data:`OPERATORS` into Towhee's folder.

    Each becomes a folder with one file, which imports the installed package: upgrading the package upgrades the
    operators. Other files in these folders, such as a checkpoint, are not changed.

    Args:
        home: Towhee's folder; None for :func:`clip4clip.weights.locate.towhee_home`.
        force: also replace an ``__init__.py`` that this function did not place.

    Returns:
        The files that were written.

    Raises:
        InstallError: one of the folders has an operator that this function did not place. Then nothing is changed.
    """
    root = Path(home).expanduser() if home is not None else towhee_home()
    files = {root / "operators" / name / "versions" / "main" / "__init__.py": code for name, code in OPERATORS.items()}
    foreign = [path for path in files if not _is_replaceable(path)]
    if foreign and not force:
        raise InstallError(
            f"not replaced, because clip4clip did not place it: {', '.join(map(str, foreign))}. "
            "Pass --force (force=True) to replace it, or choose another Towhee folder."
        )
    for path, code in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        # A hub download consists of symlinks. The file behind one belongs to Towhee.
        with atomic_write(path, replace_link=True) as fresh:
            fresh.write_text(f"{MARK}\n{IMPORT_PACKAGE}\n{code}", encoding="utf-8")
    return list(files)


def _is_replaceable(path: Path) -> bool:
    """Return whether the operator at ``path`` was placed by :func:`install_operators`, or does not exist."""
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace").startswith(MARK)
    return not any(path.parent.glob("*.py")) and not path.is_symlink()
