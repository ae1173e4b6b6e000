"""Places the operators in the folder where Towhee looks before it asks its hub."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InstallError
from .files import whole_file

MARK = "# Placed by `clip4clip install-operators`, which replaces this file when it is run again."

# Operator -> what its folder's __init__.py does: hand over to the installed package.
OPERATORS = {
    "video-text-embedding/clip4clip": """\
from functools import partial
from pathlib import Path

from clip4clip.operators import Clip4clip

clip4clip = partial(Clip4clip, folder=Path(__file__).parent)
""",
    "video-decode/ffmpeg": """\
from clip4clip.operators import ffmpeg  # noqa: F401
""",
    "ann-insert/milvus-client": """\
from clip4clip.operators import MilvusInsert as milvus_client  # noqa: F401
""",
    "ann-search/milvus-client": """\
from clip4clip.operators import MilvusSearch as milvus_client  # noqa: F401
""",
}


def towhee_home() -> Path:
    """Towhee's folder: ``$TOWHEE_HOME``, or ``~/.towhee``."""
    return Path(os.environ.get("TOWHEE_HOME") or "~/.towhee").expanduser()


def install_operators(home: str | os.PathLike[str] | None = None, force: bool = False) -> list[Path]:
    """Places ``video-text-embedding/clip4clip`` and its companions, all of ``OPERATORS``, under ``home``.

    Each becomes a folder with one file that hands over to the installed package, so an upgrade of the package is an
    upgrade of the operators. Other files in these folders, such as a checkpoint, are left alone.

    Args:
        home: Towhee's folder; None for :func:`towhee_home`.
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
        with whole_file(path, replace_link=True) as fresh:
            fresh.write_text(f"{MARK}\n{code}", encoding="utf-8")
    return list(files)


def _is_ours(path: Path) -> bool:
    """Whether the operator at ``path`` may be replaced: it was placed by us, or there is none."""
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace").startswith(MARK)
    return not any(path.parent.glob("*.py")) and not path.is_symlink()
