from __future__ import annotations

import csv
import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from clip4clip import InputValueError
from clip4clip.training import synthetic
from clip4clip.training.synthetic import PARAPHRASES, Scene, describe, draw, scenes, write_dataset
from clip4clip.video import read_frames


def some(count: int, seed: int = 0, held_out: bool = False) -> list[Scene]:
    return [scene for scene, _ in scenes(count, seed, held_out)]


def test_the_seed_decides_on_everything() -> None:
    def everything(seed: int) -> list[tuple[Scene, str, bytes]]:
        return [
            (scene, describe(scene, random), draw(scene, random).tobytes()) for scene, random in scenes(5, seed, False)
        ]

    assert everything(3) == everything(3)
    assert everything(3) != everything(4)


def test_training_never_shows_what_is_held_out() -> None:
    def combinations(found: list[Scene]) -> set[tuple[str, str, str]]:
        return {(scene.shape, scene.colour, scene.background) for scene in found}

    trained, held_out = combinations(some(4000)), combinations(some(500, held_out=True))
    assert not trained & held_out
    assert 0.05 < len(held_out) / len(trained | held_out) < 0.15
    # Every single value of what is held out is trained, or composition could not be learnt.
    for values in zip(*held_out, strict=True):
        assert set(values) <= {value for combination in trained for value in combination}


def test_held_out_clips_all_differ_and_there_are_only_so_many() -> None:
    assert len(set(some(500, held_out=True))) == 500
    with pytest.raises(InputValueError, match="1001 different held-out scenes"):
        some(1001, held_out=True)


def test_every_value_of_every_attribute_is_drawn_about_as_often_as_any_other() -> None:
    found = some(3000)
    for attribute in ("shape", "colour", "texture", "size", "count", "background", "motion"):
        often = Counter(getattr(scene, attribute) for scene in found).values()
        assert max(often) < 1.35 * min(often), attribute


def test_captions_tell_every_attribute() -> None:
    for scene, random in scenes(300, 1, False):
        for patterns in (synthetic.PATTERNS, PARAPHRASES):
            caption = describe(scene, random, patterns)
            plural = ("s", "es") if scene.count > 1 else ("",)
            assert any(f"{word}{ending}" in caption for word in synthetic.SHAPES[scene.shape] for ending in plural)
            assert scene.colour in caption
            assert any(word in caption for word in synthetic.SIZES[scene.size])
            assert any(words in caption for words in synthetic.COUNTS[scene.count])
            assert any(words in caption for words in synthetic.BACKGROUNDS[scene.background])
            assert any(words in caption for words in synthetic.MOTIONS[scene.motion])
            assert scene.position is None or any(w in caption for w in synthetic.POSITIONS[scene.position])
            assert ("stripe" in caption) == (scene.texture == "striped")
            assert ("dot" in caption) == (scene.texture == "dotted")
            assert "  " not in caption
            assert " ," not in caption


def test_paraphrases_are_sentences_that_training_never_has() -> None:
    scene, random = next(scenes(1, 0, False))
    trained = {describe(scene, random) for _ in range(2000)}
    assert not trained & {describe(scene, random, PARAPHRASES) for _ in range(500)}
    assert len(trained) > 100


def picture_of(random: np.random.Generator, **changed: object) -> np.ndarray:
    plain = Scene("circle", "red", "plain", "large", 1, "white", "still", "middle")
    return draw(Scene(**{**vars(plain), **changed}), random).astype(int)  # type: ignore[arg-type]


def redness(frames: np.ndarray) -> np.ndarray:
    return (frames[..., 0] > 150) & (frames[..., 1] < 120)


def centre_of(mask: np.ndarray) -> np.ndarray:
    """(x, y) of what is red in each frame, as parts of the side."""
    return np.array([np.argwhere(frame)[:, ::-1].mean(0) for frame in mask]) / mask.shape[1]


def test_what_is_drawn_is_what_is_told() -> None:
    random = np.random.default_rng(0)
    large, small = (redness(picture_of(random, size=size))[0].sum() for size in ("large", "small"))
    assert large > 1.7 * small
    one, three = (redness(picture_of(random, count=count, size="small", position=None))[0].sum() for count in (1, 3))
    assert 2.6 < three / one < 3.4
    for position, axis, side in (("left", 0, -1), ("right", 0, 1), ("top", 1, -1), ("bottom", 1, 1)):
        middle = centre_of(redness(picture_of(random, position=position)))[0]
        assert side * (middle[axis] - 0.5) > 0.2
    for motion, still, moving in (("horizontal", 1, 0), ("vertical", 0, 1)):
        path = centre_of(redness(picture_of(random, motion=motion)))
        assert np.ptp(path[:, still]) < 0.05
        assert np.ptp(path[:, moving]) > 0.4
    assert np.ptp(centre_of(redness(picture_of(random, motion="still"))), axis=0).max() < 0.02
    circle = centre_of(redness(picture_of(random, motion="circular"))) - 0.5
    distances = np.hypot(*circle.T)
    assert distances.min() > 0.15
    assert np.ptp(distances) < 0.1
    textures = [redness(picture_of(random, texture=texture))[0].sum() for texture in ("plain", "striped", "dotted")]
    assert textures[0] > 1.15 * max(textures[1:])
    backgrounds = [picture_of(random, background=name)[0, :8, :8].mean() for name in ("black", "gray", "white")]
    assert backgrounds == sorted(backgrounds)


def test_a_data_set_is_real_h264_files_and_tables_that_name_them(drawings: Path) -> None:
    with (drawings / "eval_paraphrased.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (drawings / "eval.csv").open(encoding="utf-8", newline="") as file:
        assert [row["video"] for row in csv.DictReader(file)] == [row["video"] for row in rows]
    assert len(rows) == 24
    for row, (scene, random) in zip(rows[:3], scenes(24, 0, True), strict=False):
        with av.open(str(drawings / row["video"])) as clip:
            stream = clip.streams.video[0]
            assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 128, 128)
        sentence = describe(scene, random)
        assert row["sentence"] == describe(scene, random, PARAPHRASES) != sentence
        drawn = draw(scene, random).astype(int)
        decoded = np.stack([frame.rgb for frame in read_frames(drawings / row["video"], None)]).astype(int)
        assert decoded.shape == drawn.shape == (16, 128, 128, 3)
        assert np.abs(decoded - drawn).mean() < 6  # lossy, and colour at half the resolution


def test_what_is_there_already_is_kept_and_no_half_file_is_left(tmp_path: Path) -> None:
    write_dataset(tmp_path, train=3, evaluation=1, workers=1)
    kept, lost = tmp_path / "train/0-000000.mp4", tmp_path / "train/0-000001.mp4"
    before, was = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    write_dataset(tmp_path, train=3, evaluation=1, workers=1)
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == was
    assert len(list(tmp_path.rglob("*.mp4"))) == len([p for p in tmp_path.rglob("*") if "mp4" in p.name]) == 4


def test_tables_that_were_not_asked_for_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("mine")
    tables = write_dataset(tmp_path, train=0, evaluation=1, workers=1)
    assert [path.name for path in tables] == ["eval.csv", "eval_paraphrased.csv"]
    assert (tmp_path / "train.csv").read_text() == "mine"


def test_a_longer_data_set_begins_like_a_shorter_one() -> None:
    assert some(5) == list(itertools.islice(some(9), 5))


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputValueError, match="seed must be at least 0, not -1"):
        write_dataset(tmp_path, train=1, evaluation=0, seed=-1)
    with pytest.raises(InputValueError, match="workers must be at least 1, not 0"):
        write_dataset(tmp_path, train=1, evaluation=0, workers=0)
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_there_as_a_whole_or_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("mine")
    with pytest.raises(UnicodeEncodeError):
        synthetic._write_table([("a.mp4", "a dog"), ("b.mp4", "\ud800")], tmp_path / "train.csv")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_script_without_its_guard_is_told_of_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom clip4clip.training.synthetic import write_dataset\n"
        f"write_dataset(Path({str(tmp_path)!r}), train=1, evaluation=0, workers=1)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert "clip4clip.errors.TrainingError: a process that draws" in done.stderr
    assert done.stderr.rstrip().endswith('under `if __name__ == "__main__":`')
