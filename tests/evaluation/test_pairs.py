"""Pairs from tables in every format, and errors for malformed tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clip4clip import PairsError
from clip4clip.evaluation.pairs import find_bad_pairs, read_pairs


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    (folder / "sub").mkdir(parents=True)
    for name in ("video1.mp4", "video2.webm", "video2.txt", "sub/video3.avi", "with.dot.mp4", "bare"):
        (folder / name).touch()
    return folder


def write_table(tmp_path: Path, text: str, name: str = "pairs.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return path


def test_the_published_test_split_of_msrvtt_is_read(tmp_path: Path, videos: Path) -> None:
    path = write_table(
        tmp_path,
        "key,vid_key,video_id,sentence\n"
        "ret0,msr1,video1,a woman creating a fondant baby and flower\n"
        'ret1,msr2,video2,"a boy, and a girl"\n',
    )
    first, second = read_pairs(path, videos)
    assert (first.video, first.path) == ("video1", videos / "video1.mp4")
    assert first.sentence == "a woman creating a fondant baby and flower"
    assert (second.path, second.sentence) == (videos / "video2.webm", "a boy, and a girl")


def test_the_published_train_split_of_msrvtt_is_read_with_its_captions_file(tmp_path: Path, videos: Path) -> None:
    path = write_table(tmp_path, "video_id\nvideo1\nvideo2\n", "MSRVTT_train.9k.csv")
    sentences = [
        {"caption": "one", "video_id": "video1", "sen_id": 0},
        {"caption": "two", "video_id": "video2", "sen_id": 1},
        {"caption": "three", "video_id": "video1", "sen_id": 2},
        {"caption": "four", "video_id": "video9", "sen_id": 3},
    ]
    captions = {"info": {}, "videos": [], "sentences": sentences}
    with pytest.raises(PairsError, match=r"no column of sentences.*MSRVTT_data\.json"):
        read_pairs(path, videos)
    elsewhere = write_table(tmp_path, json.dumps(captions), "other.json")
    default = write_table(tmp_path, json.dumps(captions), "MSRVTT_data.json")
    for captions_file in (None, elsewhere, default):
        pairs = read_pairs(path, videos, captions_file)
        assert [(pair.video, pair.sentence) for pair in pairs] == [
            ("video1", "one"),
            ("video1", "three"),
            ("video2", "two"),
        ]


def test_a_video_of_the_train_split_without_sentences_is_named(tmp_path: Path, videos: Path) -> None:
    path = write_table(tmp_path, "video_id\nvideo1\n")
    write_table(tmp_path, '{"sentences": []}', "MSRVTT_data.json")
    with pytest.raises(PairsError, match=r"line 2.*no sentence for 'video1'"):
        read_pairs(path, videos)
    write_table(tmp_path, '{"sentences": [1]}', "MSRVTT_data.json")
    with pytest.raises(PairsError, match=r"MSRVTT_data\.json is not like"):
        read_pairs(path, videos)


def test_csv_may_have_other_columns_several_sentences_a_video_and_a_byte_order_mark(
    tmp_path: Path, videos: Path
) -> None:
    path = write_table(tmp_path, "\ufeffsentence,video,other\r\nein Hund läuft,sub/video3,1\r\n犬,sub/video3.avi,2\r\n")
    pairs = read_pairs(path, videos)
    assert {pair.path for pair in pairs} == {videos / "sub/video3.avi"}
    assert [pair.sentence for pair in pairs] == ["ein Hund läuft", "犬"]


def test_json_lines_are_read(tmp_path: Path, videos: Path) -> None:
    path = write_table(
        tmp_path,
        '{"video": "video1.mp4", "sentence": "one"}\n\n{"video_id": "bare", "caption": ["two", "three"]}\n',
        "pairs.jsonl",
    )
    assert [(pair.path.name, pair.sentence) for pair in read_pairs(path, videos)] == [
        ("video1.mp4", "one"),
        ("bare", "two"),
        ("bare", "three"),
    ]


def test_tsv_and_json_arrays_are_read(tmp_path: Path, videos: Path) -> None:
    tabs = 'video\tsentence\nvideo1\ta, b and "c"\nsub/video3\t"two\twords"\n'
    array = [{"video": "video1", "sentence": 'a, b and "c"'}, {"video_id": "sub/video3", "caption": ["two\twords"]}]
    for name, text in (("a.tsv", tabs), ("a.json", json.dumps(array, indent=1)), ("b.json", f" \n{json.dumps(array)}")):
        pairs = read_pairs(write_table(tmp_path, text, name), videos)
        assert [(pair.path.name, pair.sentence) for pair in pairs] == [
            ("video1.mp4", 'a, b and "c"'),
            ("video3.avi", "two\twords"),
        ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "columns video and sentence"),
        ("a.csv", "video,sentence\n", "no pairs"),
        ("a.csv", "clip,text\na,b\n", r"columns video and sentence.*clip"),
        ("a.csv", "video,sentence\nvideo1,a dog, running\n", "line 2.*a sentence with commas needs quotes"),
        ("a.csv", "video,sentence\nvideo1\n", "line 2.*more or fewer fields"),
        ("a.csv", "video,sentence\n,a dog\n", "line 2.*expected the name of a video, not ''"),
        ("a.csv", "video,sentence\nvideo1,a\0b\n", "a.csv"),
        ("a.jsonl", "{", "line 1.*not JSON"),
        ("a.jsonl", "[1]\n", "line 1: expected an object with keys, not \\[1\\]"),
        ("a.jsonl", '{"video": "video1"}\n', "line 1.*keys video and sentence"),
        ("a.jsonl", '{"video": "video1", "sentence": 5}\n', "line 1.*must be text, not 5"),
        ("a.jsonl", '{"video": 1, "sentence": "a"}\n', "line 1.*expected the name of a video, not 1"),
        ("a.jsonl", '{"video": "video1", "sentence": []}\n', "line 1.*list of sentences is empty"),
        ("a.jsonl", '{"video": "video1", "sentence": "a\\ud800"}\n', r"line 1.*must be text, not 'a\\ud800'"),
        (
            "a.jsonl",
            '{"video": "v\\ud800", "sentence": "a"}\n',
            r"line 1.*expected the name of a video, not 'v\\ud800'",
        ),
        ("a.jsonl", "[" * 100_000, "a.jsonl"),
        ("a.json", '[{"video": "video1"}]', r"a\.json, item 1: it needs the keys video and sentence"),
        (
            "a.json",
            '[{"video": "video1", "sentence": "a"}, 5]',
            r"a\.json, item 2: expected an object with keys, not 5",
        ),
        ("a.json", "[", r"a\.json is not JSON"),
        ("a.json", "[]", r"a\.json has no pairs"),
        ("a.tsv", 'video\tsentence\nvideo1\t"a\nvideo1\tb\n', r"a\.tsv cannot be read"),
    ],
)
def test_the_error_for_a_bad_table_names_the_location(
    tmp_path: Path, videos: Path, name: str, text: str, message: str
) -> None:
    if "\0" in text:
        try:
            pairs = read_pairs(write_table(tmp_path, text, name), videos)
        except PairsError:
            return
        assert pairs[0].sentence == "a\0b"  # the csv module of newer Pythons reads it
        return
    with pytest.raises(PairsError, match=message):
        read_pairs(write_table(tmp_path, text, name), videos)


def test_a_table_that_is_not_text_is_rejected(tmp_path: Path, videos: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"video,sentence\n\xff\xfe,a\n")
    with pytest.raises(PairsError, match=r"a\.csv is not UTF-8 text\. Expected a table of videos and sentences"):
        read_pairs(path, videos)


def test_missing_table_and_missing_folder_are_named(tmp_path: Path, videos: Path) -> None:
    with pytest.raises(PairsError, match=r"no table at .*nowhere\.csv"):
        read_pairs(tmp_path / "nowhere.csv", videos)
    with pytest.raises(PairsError, match=r"no folder of videos at .*nowhere"):
        read_pairs(write_table(tmp_path, "video,sentence\na,b\n"), tmp_path / "nowhere")


def test_find_bad_pairs_finds_the_bad_pairs_only(tmp_path: Path, drawings: Path) -> None:
    clips = sorted((drawings / "eval").iterdir())
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "good.mp4").symlink_to(clips[0])
    (folder / "cut.mp4").write_bytes(clips[0].read_bytes()[:300])
    (folder / "text.mp4").write_text("not a video")
    (folder / "circle").symlink_to("circle")
    path = write_table(tmp_path, "video,sentence\ngood,a\ncut,b\ntext,c\nnowhere,d\ngood,  \ngood,f\ncircle,g\n")
    bad = find_bad_pairs(read_pairs(path, folder))
    assert sorted(bad) == [1, 2, 3, 4, 6]
    assert "cut.mp4" in bad[1]
    assert "text.mp4" in bad[2]
    assert "nowhere" in bad[3]
    assert bad[4] == "good: its sentence is empty"
