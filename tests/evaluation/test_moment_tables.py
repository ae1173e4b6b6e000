"""Annotated moments in every published format, in tables of one's own, and malformed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clip4clip import PairsError
from clip4clip.evaluation import tables
from clip4clip.evaluation.moment_tables import MomentQuery, read_moments


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[MomentQuery]]:
    """``(content, *files, left_out=None)``: reads a table with that content; ``files`` are the videos of its folder."""

    def read_content(content: str, *files: str, left_out: dict[str, str] | None = None) -> list[MomentQuery]:
        (tmp_path / "videos").mkdir(exist_ok=True)
        for file in files:
            (tmp_path / "videos" / file).touch()
        (tmp_path / "table").write_text(content, "utf-8")
        return read_moments(tmp_path / "table", tmp_path / "videos", left_out)

    return read_content


def summary(queries: list[MomentQuery]) -> list[tuple[Any, ...]]:
    return [(query.video, query.path.name, query.sentence, query.windows, query.agreement) for query in queries]


def test_qvhighlights_has_several_windows_of_a_query(read: Callable[..., list[MomentQuery]]) -> None:
    first = {"qid": 8737, "query": "A family plays.", "duration": 126, "vid": "bP5KfdFJzC4_660.0_810.0"}
    first |= {"relevant_windows": [[0, 16], [40, 48]], "relevant_clip_ids": [0], "saliency_scores": [[4, 1, 1]]}
    second = first | {"qid": 2, "relevant_windows": [[2, 4]]}
    queries = read(f"{json.dumps(first)}\n{json.dumps(second)}\n", "bP5KfdFJzC4_660.0_810.0.mp4")
    file = "bP5KfdFJzC4_660.0_810.0.mp4"
    assert summary(queries) == [
        ("bP5KfdFJzC4_660.0_810.0", file, first["query"], ((0.0, 16.0), (40.0, 48.0)), None),
        ("bP5KfdFJzC4_660.0_810.0", file, first["query"], ((2.0, 4.0),), None),
    ]
    assert queries[0].path.is_absolute()
    assert queries == read(json.dumps(first) + "\r\n\r\n" + json.dumps(second))


def test_charades_sta_has_a_query_in_each_line(read: Callable[..., list[MomentQuery]]) -> None:
    content = "AO8RW 0.0 6.9##a person is putting a book on a shelf.\nAO8RW 1 2.5##person ## hash.\n\n"
    assert summary(read(content, "AO8RW.mkv")) == [
        ("AO8RW", "AO8RW.mkv", "a person is putting a book on a shelf.", ((0.0, 6.9),), None),
        ("AO8RW", "AO8RW.mkv", "person ## hash.", ((1.0, 2.5),), None),
    ]


@pytest.mark.parametrize("indent", [None, 2])
def test_activitynet_captions_has_timestamps_and_sentences(
    indent: int | None, read: Callable[..., list[MomentQuery]]
) -> None:
    captions = {
        "v_a": {"duration": 82.73, "timestamps": [[0.83, 19.86], [17.37, 60.81]], "sentences": ["One.", " Two. "]},
        "v_b": {"duration": 5, "timestamps": [[0, 5]], "sentences": ["Three."]},
    }
    assert summary(read(json.dumps(captions, indent=indent), "v_a.mp4")) == [
        ("v_a", "v_a.mp4", "One.", ((0.83, 19.86),), None),
        ("v_a", "v_a.mp4", " Two. ", ((17.37, 60.81),), None),
        ("v_b", "v_b", "Three.", ((0.0, 5.0),), None),
    ]


def test_didemo_has_chunks_of_five_seconds_of_which_two_annotators_must_agree(
    read: Callable[..., list[MomentQuery]],
) -> None:
    entry = {"annotation_id": 1, "video": "1@N0_a.avi", "num_segments": 6, "dl_link": "…"}
    several = entry | {"description": "a dog", "times": [[0, 0], [0, 1], [5, 5]]}
    single = entry | {"description": "a cat", "times": [[2, 3]], "video": "b.mov"}
    assert summary(read(json.dumps([several, single]), "1@N0_a.mp4")) == [
        ("1@N0_a.avi", "1@N0_a.mp4", "a dog", ((0.0, 5.0), (0.0, 10.0), (25.0, 30.0)), 2),
        ("b.mov", "b.mov", "a cat", ((10.0, 20.0),), 1),
    ]


@pytest.mark.parametrize(
    "content",
    [
        'video,sentence,start,end,x\na.mp4,"a dog, running",0,4.5,1\nb,a cat,1,2,2\na.mp4,"a dog, running",9,10,3\n',
        "video_id\tcaption\tstart\tend\na.mp4\ta dog, running\t0\t4.5\nb\ta cat\t1\t2\na.mp4\ta dog, running\t9\t10\n",
        '{"video": "a.mp4", "sentence": "a dog, running", "start": 0, "end": 4.5}\n'
        '{"video": "b", "sentence": "a cat", "start": 1, "end": 2}\n'
        '{"video": "a.mp4", "sentence": "a dog, running", "start": 9, "end": 10}\n',
        '[{"video": "a.mp4", "sentence": "a dog, running", "start": 0, "end": 4.5},\n'
        '{"video": "b", "sentence": "a cat", "start": 1, "end": 2},\n'
        '{"video": "a.mp4", "sentence": "a dog, running", "start": 9, "end": 10}]\n',
    ],
)
def test_rows_of_a_table_with_the_same_video_and_sentence_are_one_query(
    content: str, read: Callable[..., list[MomentQuery]]
) -> None:
    assert summary(read("\ufeff" + content, "a.mp4")) == [
        ("a.mp4", "a.mp4", "a dog, running", ((0.0, 4.5), (9.0, 10.0)), None),
        ("b", "b", "a cat", ((1.0, 2.0),), None),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "video,sentence,start,end\nA,a\u2028b\x0cc,0,6\n",
        '{"vid": "A", "query": "a\u2028b\\fc", "relevant_windows": [[0, 6]]}\n',
        "A 0 6##a\u2028b\x0cc\n",
    ],
)
def test_only_line_breaks_end_a_line(content: str, read: Callable[..., list[MomentQuery]]) -> None:
    assert [query.sentence for query in read(content)] == ["a\u2028b\x0cc"]


def test_entries_without_a_sentence_or_a_length_are_left_out_and_named(read: Callable[..., list[MomentQuery]]) -> None:
    content = "A 0 6##one\nA 6 6##two\nA 7 6##three\nA 1 2## \nA -1 2##four\n"
    left_out: dict[str, str] = {}
    assert [(query.sentence, query.windows) for query in read(content, left_out=left_out)] == [
        ("one", ((0.0, 6.0),)),
        ("four", ((0.0, 2.0),)),
    ]
    assert [location.rpartition(", ")[2] for location in left_out] == ["line 2", "line 3", "line 4"]
    assert "line 3: its window does not end after its start: 7 s to 6 s" in "".join(left_out.values())
    with pytest.raises(PairsError, match="line 2: its window does not end after its start"):
        read(content)
    with pytest.raises(PairsError, match="line 1: its sentence is empty"):
        read("A 1 2## \n", left_out={})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"needs a header with the columns video, sentence, start and end; its first line is \[\]"),
        ("video,sentence,start\na,b,1\n", "needs a header with the columns video, sentence, start and end"),
        ("video,sentence,start,end\n", "table has no moments"),
        ("video,sentence,start,end\na,b,1\n", "line 2: it has more or fewer fields than the header"),
        ("video,sentence,start,end\na,b,1,2,3\n", "line 2: it has more or fewer fields than the header"),
        ("video,sentence,start,end\na,b,1,x\n", r"line 2: expected a start and an end in seconds, not \('1', 'x'\)"),
        ("video,sentence,start,end\na,b,nan,2\n", "line 2: expected a start and an end in seconds"),
        ("video,sentence,start,end\n,b,1,2\n", "line 2: expected the name of a video, not ''"),
        ("video,sentence,start,end\n../a,b,1,2\n", r"line 2: '\.\./a' leads out of the folder"),
        ("A 0 6##one\nA 6\n", "line 2: expected `video start end##sentence`, as in Charades-STA, not 'A 6'"),
        ("A 0 1e999##one\n", "line 1: expected a start and an end in seconds"),
        ('{"vid": "a", "query": "b", "duration": 1}', "line 1: it has no times: expected relevant_windows.*test split"),
        ('{"vid": "a", "query": "b", "relevant_windows": []}', r"line 1: expected a list of windows.*not \[\]"),
        ('{"vid": "a", "query": "b", "relevant_windows": [[1]]}', r"line 1: expected a start and an end.*not \[1\]"),
        ('{"vid": "a", "query": "b", "relevant_windows": [[true, 2]]}', "line 1: expected a start and an end"),
        ('{"vid": "a", "query": 7, "relevant_windows": [[1, 2]]}', "line 1: the sentence must be text, not 7"),
        ('{"vid": "a\\u0000", "query": "b", "relevant_windows": [[1, 2]]}', "line 1: expected the name of a video"),
        ('{"vid": "a", "query": "\\ud800", "relevant_windows": [[1, 2]]}', "line 1: the sentence must be text"),
        ('{"vid": "a", "query": "b", "relevant_windows": [[1, 2]]}\n{"vid": ', "line 2: it is not JSON"),
        ('{"video": {"a": 1}, "sentence": "b", "start": 1, "end": 2}', "line 1: expected the name of a video"),
        ('{"v_a": {"timestamps": [[1, 2]], "sentences": []}}', "'v_a': expected as many timestamps as sentences"),
        ('{"v_a": [1]}', "'v_a': expected as many timestamps as sentences"),
        ('{"v_a": {"timestamps": [3], "sentences": ["b"]}}', "'v_a', sentence 1: expected a start and an end"),
        ("{}", "table has no moments"),
        ('{"v_a":\n', "table is not JSON"),
        ("[1]", "item 1: expected an object with keys, not 1"),
        ("[", "table is not JSON"),
        (
            '[{"video": "a", "description": "b", "times": [[0, 6]]}]',
            r"numbers of the first and the last chunk.*\[0, 6\]",
        ),
        ('[{"video": "a", "description": "b", "times": [[2, 1]]}]', "numbers of the first and the last chunk"),
        ('[{"video": "a", "description": "b", "times": 3}]', "numbers of the first and the last chunk"),
        ('[{"video": "a", "description": "b", "times": []}]', "expected a list of windows"),
    ],
)
def test_malformed_tables_are_rejected_with_the_place_of_the_mistake(
    content: str, message: str, read: Callable[..., list[MomentQuery]]
) -> None:
    with pytest.raises(PairsError, match=message):
        read(content)


def test_files_that_are_missing_too_large_or_no_text_are_rejected(
    read: Callable[..., list[MomentQuery]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PairsError, match="no folder of videos at"):
        read_moments(tmp_path / "table", tmp_path / "none")
    with pytest.raises(PairsError, match="no table at"):
        read_moments(tmp_path / "none", tmp_path)
    (tmp_path / "binary").write_bytes(b"PAR1\xff")
    with pytest.raises(PairsError, match=r"binary is a Parquet file\. Expected moments in UTF-8"):
        read_moments(tmp_path / "binary", tmp_path)
    with pytest.raises(PairsError, match="table cannot be read"):
        read("[" * 100_000)
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 10)
    with pytest.raises(PairsError, match="is larger than the limit of 10 bytes"):
        read("A 0 6##one\n")
