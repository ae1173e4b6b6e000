"""Commands, the page and the tutorial on an index, in a local file and on a real Milvus server."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from constants import DEMO_MODEL, REPOSITORY
from page_client import SEARCH, address
from servers import MilvusServer, PageServer
from typer.testing import CliRunner

from clip4clip import TextEncoder
from clip4clip.cli import app, main
from clip4clip.library.table import read_rows
from clip4clip.retrieval import VideoIndex


def test_embed_index_and_search_find_the_right_clip(
    drawings: Path, drawings_table: Path, captions: dict[str, str], easy: tuple[str, str], uri: str, collection: str
) -> None:
    address = ["--uri", uri, "--collection", collection]
    run = CliRunner()
    result = run.invoke(app, ["index", str(drawings_table), *address])
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"24 added or replaced; 24 videos in collection '{collection}' of {uri}" in result.stderr
    caption, path = easy[0], captions[easy[0]]
    hits = run.invoke(app, ["search", caption, "-k", "3", "--json", *address])
    assert hits.exit_code == 0
    lines = [json.loads(line) for line in hits.stdout.splitlines()]
    assert (len(lines), lines[0]["path"], lines[0]["duration"]) == (3, path, 2.0)
    like = run.invoke(app, ["search", "--video", path, "-k", "1", "--json", *address])
    assert json.loads(like.stdout)["path"] == path
    table = run.invoke(app, ["search", caption, "-k", "1", *address])
    column = [line.split("│")[4].strip() for line in table.stdout.splitlines() if "│" in line]
    assert "".join(column) == path  # the terminal is narrower than the path
    none = run.invoke(app, ["search", caption, "--filter", "duration > 100", *address])
    assert (none.exit_code, none.stdout) == (0, "")
    assert "no videos were found" in none.stderr
    assert run.invoke(app, ["search", caption, "--video", path, *address]).exit_code == 2
    again = run.invoke(app, ["index", str(drawings / "eval"), *address])
    assert "0 added, 0 changed, 0 removed, 24 unchanged; 24 videos" in again.stderr
    wrong = run.invoke(app, ["search", caption, "-m", "clip_vit_b32", "-w", "none", *address])
    assert isinstance(wrong.exception, Exception)


@pytest.mark.parametrize("command", [["search", "a dog"], pytest.param(["serve"], marks=pytest.mark.slow)])
def test_a_command_on_a_missing_index_is_an_error_and_does_not_create_it(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["clip4clip", *command, "--uri", "none.db"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error no index at none.db: create it with `clip4clip index`\n"
    assert list(tmp_path.iterdir()) == []


def test_the_page_reports_in_one_sentence_that_its_server_is_down(
    milvus: MilvusServer, collection: str, drawings_table: Path, easy: tuple[str, str]
) -> None:
    caption, name = easy
    with VideoIndex(milvus.uri, collection) as index:
        index.add(drawings_table)
        clip = next(row["id"] for row in read_rows(drawings_table) if Path(row["path"]).name == name)
    with PageServer(milvus.uri, "--collection", collection) as page:

        def search() -> tuple[int, Any]:
            status, body = page.get(f"{SEARCH}?q={quote(caption)}")
            return status, json.loads(body)

        status, answer = search()
        assert (status, answer["moments"][0]["name"]) == (200, name)
        assert page.get(address("media", clip))[0] == 200
        assert page.get(f"{address('api/videos', clip)}/similar")[0] == 200
        milvus.kill()
        status, answer = search()
        assert (status, answer["detail"]) == (503, "The index does not answer at the moment. Try again in a minute.")
        assert page.get(address("media", clip))[0] == 503
        milvus.start()
        end = time.monotonic() + 300
        while search()[0] != 200:  # the page recovers by itself
            assert time.monotonic() < end
            time.sleep(2)
        assert search()[1]["moments"][0]["name"] == name
        assert "Traceback" not in page.stop()


@pytest.mark.slow
def test_an_open_page_shows_what_commands_add_move_and_delete(
    drawings: Path,
    captions: dict[str, str],
    easy: tuple[str, str],
    uri: str,
    collection: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("fastapi")
    caption, name = easy
    folder, clip = tmp_path / "clips", Path(captions[caption])
    folder.mkdir()
    for other in sorted(clip.parent.iterdir())[:4]:
        if other != clip:
            shutil.copy2(other, folder)
    place = ["--uri", uri, "--collection", collection]

    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: object) -> str:
        done = CliRunner().invoke(app, [*map(str, arguments), *place])
        assert done.exit_code == 0, done.output
        return done.stderr

    command("index", folder, "-m", DEMO_MODEL)
    with PageServer(*place[1:]) as page:

        def shown() -> str:
            status, answer = page.get(f"{SEARCH}?q={quote(caption)}")
            assert status == 200, answer
            return answer.decode()

        assert name not in shown()
        shutil.copy2(clip, folder)
        assert "1 added" in command("index", folder)
        assert name in shown()
        assert page.get(address("media", folder / name))[0] == 200
        (folder / "sub").mkdir()
        (folder / name).rename(folder / "sub" / name)
        assert "1 moved within the folder" in command("index", folder)
        assert quote(f"/sub/{name}", safe="") in shown()
        assert page.get(address("media", folder / "sub" / name))[0] == 200
        assert "1 video removed" in command("delete", folder / "sub" / name, "--yes")
        assert name not in shown()
        assert page.get(address("media", folder / "sub" / name))[0] == 404
        assert "Traceback" not in page.stop()


@pytest.mark.slow
def test_the_tutorial_prints_the_recall_of_the_similarity_matrix(
    drawings: Path,
    drawings_table: Path,
    captions: dict[str, str],
    uri: str,
    collection: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = str(REPOSITORY / "examples" / "text_video_retrieval.py")  # test_docs.py runs it in a process of its own
    address = ["--uri", uri] if "://" not in uri else ["--host", "127.0.0.1", "--port", uri.rsplit(":", 1)[1]]
    monkeypatch.setattr(sys, "argv", [script, str(drawings / "eval.csv"), *address, "--collection", collection])

    def run_tutorial() -> list[str]:
        runpy.run_path(script, run_name="__main__")
        return capsys.readouterr().out.splitlines()

    printed = run_tutorial()
    rows = list(read_rows(drawings_table))
    paths, matrix = [row["path"] for row in rows], np.stack([row["vector"] for row in rows])
    similarity = {path: matrix @ TextEncoder.load(DEMO_MODEL)(text) for text, path in captions.items()}
    ranks = [int((scores > scores[paths.index(path)]).sum()) for path, scores in similarity.items()]
    assert len(ranks) == 24
    assert printed == [
        f"the right video is among the first {first}: {100 * np.mean(np.array(ranks) < first):.1f} %"
        for first in (1, 5, 10)
    ]
    assert run_tutorial() == printed  # it replaces the collection
