"""Random scenes and their captions."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from clip4clip import InputValueError
from clip4clip.training import scenes as tables
from clip4clip.training.scenes import PARAPHRASES, PATTERNS, Moment, Scene, describe, long_videos, scenes


def draw_scenes(count: int, seed: int = 0, held_out: bool = False) -> list[Scene]:
    return [scene for scene, _ in scenes(count, seed, held_out)]


def combinations(drawn: list[Scene]) -> set[tuple[str, str, str]]:
    return {(scene.shape, scene.colour, scene.background) for scene in drawn}


def test_training_scenes_never_have_a_held_out_combination() -> None:
    trained, held_out = combinations(draw_scenes(4000)), combinations(draw_scenes(500, held_out=True))
    assert not trained & held_out
    assert 0.05 < len(held_out) / len(trained | held_out) < 0.15
    # Training shows every single value of the held-out scenes; otherwise composition could not be learnt.
    for values in zip(*held_out, strict=True):
        assert set(values) <= {value for combination in trained for value in combination}


def test_held_out_scenes_all_differ_and_their_number_is_limited() -> None:
    assert len(set(draw_scenes(500, held_out=True))) == 500
    with pytest.raises(InputValueError, match="1001 different held-out scenes"):
        draw_scenes(1001, held_out=True)


def test_all_values_of_an_attribute_are_about_equally_frequent() -> None:
    drawn = draw_scenes(3000)
    for attribute in ("shape", "colour", "texture", "size", "count", "background", "motion"):
        frequencies = Counter(getattr(scene, attribute) for scene in drawn).values()
        assert max(frequencies) < 1.35 * min(frequencies), attribute


def test_a_longer_data_set_starts_like_a_shorter_one() -> None:
    assert draw_scenes(5) == list(itertools.islice(draw_scenes(9), 5))


def test_captions_name_every_attribute() -> None:
    for scene, random in scenes(300, 1, False):
        for patterns in (PATTERNS, PARAPHRASES):
            caption = describe(scene, random, patterns)
            plural = ("s", "es") if scene.count > 1 else ("",)
            assert any(f"{word}{ending}" in caption for word in tables.SHAPES[scene.shape] for ending in plural)
            assert scene.colour in caption
            assert any(word in caption for word in tables.SIZES[scene.size])
            assert any(words in caption for words in tables.COUNTS[scene.count])
            assert any(words in caption for words in tables.BACKGROUNDS[scene.background])
            assert any(words in caption for words in tables.MOTIONS[scene.motion])
            assert scene.position is None or any(words in caption for words in tables.POSITIONS[scene.position])
            assert ("stripe" in caption) == (scene.texture == "striped")
            assert ("dot" in caption) == (scene.texture == "dotted")
            assert "  " not in caption
            assert " ," not in caption


def test_paraphrases_are_sentences_that_training_never_has() -> None:
    scene, random = next(scenes(1, 0, False))
    trained = {describe(scene, random) for _ in range(2000)}
    assert not trained & {describe(scene, random, PARAPHRASES) for _ in range(500)}
    assert len(trained) > 100


def test_the_seed_decides_the_captions() -> None:
    def captions(seed: int) -> list[str]:
        return [describe(scene, random) for scene, random in scenes(5, seed, False)]

    assert captions(3) == captions(3)
    assert captions(3) != captions(4)


def draw_moments(count: int, seed: int = 0, held_out: bool = True) -> list[list[Moment]]:
    return [[moment for moment, _ in moments] for moments in long_videos(count, seed, held_out)]


def test_scenes_of_a_long_video_follow_each_other_for_four_minutes() -> None:
    videos = draw_moments(20)
    lengths = [moment.end - moment.start for moments in videos for moment in moments]
    for moments in videos:
        assert moments[0].start == 0
        assert [moment.start for moment in moments[1:]] == [moment.end for moment in moments[:-1]]
        assert 240 <= moments[-1].end < 280
        assert moments[-1].fade == 0
    assert 4 <= min(lengths) < 5
    assert 30 < max(lengths) <= 40
    assert 15 < len(lengths) / len(videos) < 25


def test_a_fade_has_even_frames_and_leaves_time_for_its_scenes() -> None:
    moments = [moment for video in draw_moments(20) for moment in video]
    assert {moment.transition for moment in moments} == {"cut", "dissolve", "black"}
    for moment in moments:
        assert (moment.fade == 0) == (moment.transition == "cut")
        assert moment.fade <= 2
        assert (moment.fade * 8) % 2 == 0


def test_long_videos_show_held_out_scenes_or_training_scenes_and_each_only_once() -> None:
    held_out = [moment.scene for video in draw_moments(10) for moment in video]
    trained = [moment.scene for video in draw_moments(10, held_out=False) for moment in video]
    assert all(scene.held_out for scene in held_out)
    assert not combinations(held_out) & combinations(trained)
    assert len(set(held_out)) == len(held_out)
    assert len(set(trained)) == len(trained)
    with pytest.raises(InputValueError, match="41 long videos"):
        draw_moments(41)


def test_more_long_videos_start_like_fewer() -> None:
    assert draw_moments(2, seed=3) == draw_moments(4, seed=3)[:2]
    assert draw_moments(2, seed=3) != draw_moments(2, seed=4)
