"""Labels of videos: their scores, their files, and the fields that they become."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from constants import DEMO_MODEL
from index_rows import random_rows
from safetensors.torch import load_file, save_file

from clip4clip import InputTypeError, InputValueError, ModelMismatchError, VideoIndexError
from clip4clip.encoder import EncoderSpec, TextEncoder
from clip4clip.index.tags import Tagger, read_labels
from clip4clip.library.table import read_rows
from clip4clip.retrieval import Tagged, VideoIndex, tag_table
from clip4clip.training.scenes import COLOURS, scenes
from clip4clip.weights.identity import find_checkpoint

DEMO = EncoderSpec(DEMO_MODEL)


@pytest.fixture(scope="module")
def colours(drawings_table: Path) -> dict[str, str]:
    """The colour of each clip of ``drawings_table``, by the name of its file."""
    names = sorted(Path(row["path"]).name for row in read_rows(drawings_table))
    return {name: scene.colour for name, (scene, _) in zip(names, scenes(len(names), 0, held_out=True), strict=True)}


def named(tagged: Iterator[Tagged]) -> dict[str, str]:
    return {Path(row.hit.path).name: row.tags[0][0] for row in tagged}


def test_drawn_clips_get_their_colours(drawings_table: Path, colours: dict[str, str]) -> None:
    tags = named(tag_table(drawings_table, [*COLOURS]))
    assert tags.keys() == colours.keys()
    assert sum(tags[name] == colours[name] for name in tags) >= len(tags) - 1


def test_scores_are_the_softmax_of_the_model() -> None:
    labels = ["red", "green", "blue"]
    rows = random_rows(5)
    tagger = Tagger(labels, DEMO, "there you see {}", top=2)
    tagged = [*tagger(rows)]
    assert tagger.is_softmax
    assert [row.hit.id for row in tagged] == [row["id"] for row in rows]
    scale = float(load_file(find_checkpoint(None, DEMO_MODEL).path)["clip.logit_scale"].float().exp())
    texts = TextEncoder.load(DEMO_MODEL)([f"there you see {label}" for label in labels])
    for row, result in zip(rows, tagged, strict=True):
        exponentials = np.exp(scale * (texts @ row["vector"]))
        shares = exponentials / exponentials.sum()
        best = np.argsort(-shares)[:2]
        assert [label for label, _ in result.tags] == [labels[number] for number in best]
        assert [score for _, score in result.tags] == pytest.approx(shares[best], abs=1e-4)
        kept = [tag for tag in result.tags if tag[1] >= 0.5]
        assert next(Tagger(labels, DEMO, "there you see {}", 2, 0.5)([row])).tags == tuple(kept)


def test_without_a_logit_scale_scores_are_cosine_similarities(tmp_path: Path) -> None:
    tensors = load_file(find_checkpoint(None, DEMO_MODEL).path)
    del tensors["clip.logit_scale"]
    save_file(tensors, tmp_path / "a.safetensors")
    tagger = Tagger(["red", "blue"], replace(DEMO, weights=tmp_path / "a.safetensors"), "{}", top=2)
    assert not tagger.is_softmax
    row = random_rows(1)[0]
    similarities = TextEncoder.load(DEMO_MODEL)(["red", "blue"]) @ row["vector"]
    assert dict(next(tagger([row])).tags) == pytest.approx({"red": similarities[0], "blue": similarities[1]}, abs=1e-4)


def test_stored_tags_are_fields_to_filter_by(index: VideoIndex) -> None:
    rows = random_rows(12)
    for number, row in enumerate(rows):
        row |= {"video": f"/v/{number % 3}.mp4", "path": f"/v/{number % 3}.mp4", "camera": "front"}
        row |= {"start": float(number), "end": number + 1.0}
    index.add(rows)
    labels = ["red", "green", 'a "blue" one']
    tagged = {row.hit.id: row for row in index.tags(labels, top=2)}
    assert index.store_tags(index.tags(labels, top=2)) == 12
    assert index.store_tags(index.tags(labels, top=2)) == 0  # nothing is written again
    for label, literal in zip(labels, ("'red'", "'green'", "'a \"blue\" one'"), strict=True):
        expected = {id_ for id_, row in tagged.items() if row.tags[0][0] == label}
        assert {hit.id for hit in index.segments(f"label == {literal}")} == expected
        hits = index.search(vector=rows[0]["vector"], filter=f"label == {literal}", per_video=None)
        assert {hit.id for hit in hits} == expected
        expected = {id_ for id_, row in tagged.items() if label in dict(row.tags)}
        assert {hit.id for hit in index.segments(f"json_contains(labels, {literal})")} == expected
    some = next(iter(tagged.values()))
    stored = index.get(some.hit.id)
    assert stored is not None
    assert stored.fields == {"duration": stored.fields["duration"], "camera": "front", **some.fields()}
    assert index.search(vector=rows[3]["vector"], limit=1)[0].score == pytest.approx(1, abs=1e-5)
    least = sorted(row.tags[0][1] for row in tagged.values())[6]
    index.store_tags(index.tags(labels, min_score=least))
    assert len([*index.segments("exists label")]) == len([*index.segments(f"label_score >= {least}")]) == 6
    assert len([*index.segments("camera == 'front' and not exists labels")]) == 6


def test_tags_that_were_stored_before_an_interruption_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip4clip.index.video_index.ADD_BATCH", 4)

    def interrupted(tagged: Iterator[Tagged]) -> Iterator[Tagged]:
        for number, row in enumerate(tagged):
            if number == 6:
                raise KeyboardInterrupt
            yield row

    with VideoIndex(tmp_path / "v.db", encoder=DEMO) as index:
        index.add(random_rows(10))
        with pytest.raises(KeyboardInterrupt):
            index.store_tags(interrupted(index.tags(["red", "blue"])))
        assert len([*index.videos("exists label")]) == 6
        assert index.store_tags(index.tags(["red", "blue"])) == 4


def test_a_row_that_is_deleted_while_others_are_tagged_does_not_come_back(index: VideoIndex) -> None:
    index.add(random_rows(3))
    tagged = [*index.tags(["red", "blue"])]
    with VideoIndex(index.address.uri, index.address.collection, timeout=60) as other:
        other.delete(["v1"])
    index.store_tags(tagged)
    assert sorted(hit.id for hit in index.videos()) == ["v0", "v2"]


@pytest.mark.parametrize("fields", [{"label": "mine"}, {"labels": ["mine"]}])
def test_fields_of_the_same_names_that_are_no_tags_are_not_replaced(index: VideoIndex, fields: dict[str, Any]) -> None:
    rows = random_rows(3)
    rows[1] |= fields
    index.add(rows)
    with pytest.raises(VideoIndexError, match=f"the field '{next(iter(fields))}' of 'v1' is none that clip4clip has"):
        index.store_tags(index.tags(["red", "blue"]))
    assert {hit.id: hit.fields for hit in index.videos("exists label or exists labels")} == {
        "v1": {"duration": 1.0, **fields}
    }


def test_a_video_that_is_embedded_again_loses_its_tags(tmp_path: Path, drawings: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    clips = sorted((drawings / "eval").iterdir())
    for name, clip in zip("ab", clips, strict=False):
        (folder / f"{name}.mp4").write_bytes(clip.read_bytes())
    with VideoIndex(tmp_path / "v.db", encoder=DEMO) as index:
        index.sync(folder)
        index.store_tags(index.tags([*COLOURS]))
        (folder / "a.mp4").write_bytes(clips[2].read_bytes())
        assert index.sync(folder).changed == 1
        assert [Path(hit.path).name for hit in index.videos("exists label or exists labels")] == ["b.mp4"]


def test_a_video_that_is_embedded_again_keeps_a_label_that_is_no_tag(tmp_path: Path, drawings: Path) -> None:
    clips = sorted((drawings / "eval").iterdir())
    path = (tmp_path / "videos" / "a.mp4").resolve()
    path.parent.mkdir()
    path.write_bytes(clips[0].read_bytes())
    with VideoIndex(tmp_path / "v.db", encoder=DEMO) as index:
        index.add([row | {"id": "a", "path": str(path), "label": "mine"} for row in random_rows(1)])
        assert index.sync(path.parent).changed == 1
        [hit] = index.videos()
        assert (hit.id, hit.fields["label"]) == ("a", "mine")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected 2 to 10,000 labels, got 0"),
        (b"red\n\n", "expected 2 to 10,000 labels, got 1"),
        (b"red\n\nblue\n", "label 2 is empty"),
        (b"red\nblue\n red\n", "label 3 is 'red', as label 1 is: remove one of them"),
        (b"red\n\xff\n", "is not text in UTF-8: expected one label per line"),
    ],
)
def test_invalid_labels_are_errors_that_name_the_file(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(InputValueError, match=message) as failure:
        read_labels(tmp_path / "labels.txt")
    assert str(failure.value).startswith(str(tmp_path / "labels.txt"))


def test_labels_may_have_any_line_ends_and_spaces(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes("\ufeffred\r\n a dog\t\r\nüber\u2028x\r\n\r\n".encode())
    assert read_labels(tmp_path / "labels.txt") == ["red", "a dog", "über\u2028x"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels": "red"}, InputTypeError, "labels must be a list of strings, not 'red'"),
        ({"labels": ["red", 1]}, InputTypeError, "label 2 must be a string, not 1"),
        ({"labels": ["red", "\ud800"]}, InputValueError, "label 2 must be valid Unicode"),
        ({"labels": ["red", "x" * 70_000]}, InputValueError, "label 2 is longer than 65535 bytes"),
        ({"template": "a video"}, InputValueError, "the template must have {} once, .* unlike 'a video'"),
        ({"template": "{} and {}"}, InputValueError, "the template must have {} once"),
        ({"top": 0}, InputValueError, "top must be a whole number from 1, not 0"),
        ({"min_score": 50}, InputValueError, "min_score must be a share or a similarity from -1 to 1, not 50"),
    ],
)
def test_invalid_arguments_are_errors(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Tagger(**{"labels": ["red", "blue"], "encoder": DEMO, **arguments})


def test_labels_of_another_model_are_rejected(drawings_table: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelMismatchError, match="which cannot be compared with labels of clip_vit_b16"):
        tag_table(drawings_table, ["red", "blue"], encoder=EncoderSpec("clip_vit_b16"))
    tensors = load_file(find_checkpoint(None, DEMO_MODEL).path)
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
    other = EncoderSpec(DEMO_MODEL, tmp_path / "a.safetensors")
    with pytest.raises(ModelMismatchError, match=r"the table .* has vectors of clip_vit_tiny_demo with the weights"):
        tag_table(drawings_table, ["red", "blue"], encoder=other)
    with VideoIndex(tmp_path / "v.db", encoder=DEMO) as index:
        index.add(random_rows(2))
    with VideoIndex(tmp_path / "v.db", encoder=other) as index:
        for use in (lambda: index.tags(["red", "blue"]), index.calibration):
            with pytest.raises(ModelMismatchError, match="cannot be compared with vectors of clip_vit_tiny_demo with"):
                use()
