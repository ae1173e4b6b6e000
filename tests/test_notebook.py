"""The notebook examples/find_videos.ipynb: its committed outputs, and the outputs of a fresh run."""

from __future__ import annotations

import ast
import copy
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from constants import REPOSITORY

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

NOTEBOOK = REPOSITORY / "examples" / "find_videos.ipynb"


def printed(notebook: Any, cell_id: str) -> list[str]:
    """Return the lines that a cell printed."""
    (outputs,) = (cell.outputs for cell in notebook.cells if cell.id == cell_id)
    return "".join(output.text for output in outputs if output.output_type == "stream").splitlines()


@pytest.fixture(scope="module")
def committed() -> Any:
    return nbformat.read(NOTEBOOK, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the notebook is run."""
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def executed(committed: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook, executed by this interpreter; an exception in a cell fails the tests."""
    home = tmp_path_factory.mktemp("jupyter")
    (home / "kernels" / "this").mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "this", "language": "python"}
    (home / "kernels" / "this" / "kernel.json").write_text(json.dumps(spec))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("JUPYTER_PATH", str(home))
        environment.setenv("JUPYTER_RUNTIME_DIR", str(home / "runtime"))
        environment.setenv("IPYTHONDIR", str(home / "ipython"))
        resources = {"metadata": {"path": str(folder)}}
        client = nbclient.NotebookClient(
            copy.deepcopy(committed), kernel_name="this", startup_timeout=300, resources=resources
        )
        return client.execute()


def test_committed_outputs_are_complete_and_name_no_local_path(committed: Any) -> None:
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) == 4
    assert NOTEBOOK.stat().st_size < 400_000
    assert all(cell.metadata == {} for cell in committed.cells)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert committed.metadata == {"kernelspec": kernel, "language_info": {"name": "python"}}
    for output in outputs:
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        texts = [text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")]
        for text in (*texts, output.get("text", "")):
            assert not re.search(r"(^|[\s'\"(=])(/|~/|[A-Z]:\\)\w", text), text  # an absolute path


@pytest.mark.slow
def test_sentences_and_videos_find_the_right_clips(executed: Any) -> None:
    sentence, video, filtered = (printed(executed, cell) for cell in ("sentence", "video", "filter"))
    assert [len(sentence), len(video), len(filtered)] == [4, 4, 3]
    right = "0-000008.mp4: three big blue triangles on a brown background, rising and falling"
    assert re.fullmatch(rf"1\. 0\.\d{{3}} {re.escape(right)}", sentence[0])
    assert video[0].startswith("1. 1.000 0-000027.mp4: a video of a large purple dotted diamond")
    assert "0-000014.mp4: two huge blue triangles" in filtered[0]
    assert all(re.search(r": (.* )?(two|a pair of) ", line) for line in filtered)


@pytest.mark.slow
def test_embedded_videos_are_kept_and_the_index_follows_the_folder(executed: Any) -> None:
    assert printed(executed, "embed") == ["60 videos, 60 processed, 0 unchanged, 0 failed"]
    assert printed(executed, "again") == ["60 videos, 0 processed, 60 unchanged, 0 failed"]
    assert printed(executed, "index")[0].startswith("60 videos, vectors of clip_vit_tiny_demo with the weights ")
    assert printed(executed, "sync") == [
        "1 added, 1 changed, 1 removed, 58 unchanged",
        "could not be read: ['notes.mp4']",
        "60 videos in the index",
    ]
    assert {line.split()[2] for line in printed(executed, "synced")[:2]} == {"0-000014.mp4:", "0-000020.mp4:"}


@pytest.mark.slow
def test_the_tutorial_finds_the_right_videos(executed: Any) -> None:
    pattern = r"the right video is among the first (1|5|10): (\d+) of 60, \d+\.\d %"
    matches = [re.fullmatch(pattern, line) for line in printed(executed, "towhee")]
    ratios = {int(each[1]): int(each[2]) for each in matches if each}
    assert list(ratios) == [1, 5, 10]
    assert 50 <= ratios[1] <= ratios[5] <= ratios[10] == 60


@pytest.mark.slow
def test_a_fresh_run_prints_the_committed_lines(executed: Any, committed: Any) -> None:
    for cell in ("draw", "embed", "again", "index", "sync"):
        assert printed(executed, cell) == printed(committed, cell)


@pytest.mark.slow
def test_a_run_leaves_no_files_behind(executed: Any, folder: Path) -> None:
    assert list(folder.iterdir()) == []


def test_the_modules_and_names_that_it_imports_exist(committed: Any) -> None:
    source = "\n".join(cell.source for cell in committed.cells if cell.cell_type == "code")
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    own = [node for node in imports if node.module.partition(".")[0] == "clip4clip"]
    assert own
    for node in own:
        module = importlib.import_module(node.module)
        assert all(hasattr(module, alias.name) for alias in node.names), node.module
