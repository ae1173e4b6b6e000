"""Evaluations: similarities, ranks, failed videos and invalid pairs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clip4clip import InputValueError, PairsError, TextEncoder, VideoEncoder
from clip4clip.evaluation.evaluate import evaluate
from clip4clip.evaluation.pairs import Pair, read_pairs
from clip4clip.video import FrameSampling, read_frames


@pytest.fixture(scope="module")
def encoders(tiny_checkpoint: Path) -> tuple[TextEncoder, VideoEncoder]:
    return TextEncoder.load("tiny", tiny_checkpoint, "cpu"), VideoEncoder.load("tiny", tiny_checkpoint, "cpu")


@pytest.fixture(scope="module")
def pairs(drawings: Path) -> list[Pair]:
    return read_pairs(drawings / "eval.csv", drawings)


def test_similarities_and_ranks_are_those_of_the_encoders_vectors(
    encoders: tuple[TextEncoder, VideoEncoder], pairs: list[Pair]
) -> None:
    evaluation = evaluate(pairs, *encoders, sampling=FrameSampling(frames=3))
    text, video = encoders
    similarity = text([pair.sentence for pair in pairs]) @ video([read_frames(pair.path, 3) for pair in pairs]).T
    np.testing.assert_allclose(evaluation.similarity, similarity, atol=2e-6)
    own = np.diag(similarity)
    assert np.abs(evaluation.text_ranks - (1 + (similarity > own[:, None]).sum(1))).max() <= 0.5
    assert np.abs(evaluation.video_ranks - (1 + (similarity > own[None]).sum(0))).max() <= 0.5
    assert (evaluation.pairs, evaluation.videos, evaluation.failed) == (24, 24, {})
    assert evaluation.video_names == [pair.video for pair in pairs]
    assert evaluation.to_dict()["text_to_video"]["mean_rank"] == evaluation.text_to_video.mean_rank


def test_a_video_that_cannot_be_decoded_is_a_named_miss(
    encoders: tuple[TextEncoder, VideoEncoder], pairs: list[Pair], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    damaged = [replace(pairs[0], video="broken", path=broken), *pairs[1:]]
    evaluation = evaluate(damaged, *encoders, sampling=FrameSampling(frames=3))
    assert list(evaluation.failed) == ["broken"]
    assert "broken.mp4" in evaluation.failed["broken"]
    assert (evaluation.videos, evaluation.text_to_video.queries, evaluation.text_to_video.missed) == (24, 24, 1)
    assert evaluation.video_to_text.missed == 1
    assert np.isnan(evaluation.text_ranks[0])
    assert not np.isnan(evaluation.text_ranks[1:]).any()
    whole = evaluate(pairs, *encoders, sampling=FrameSampling(frames=3))
    assert evaluation.text_to_video.mean_rank >= (whole.text_ranks[1:].sum() - 23 + 24) / 24


def test_an_evaluation_in_which_all_videos_fail_has_only_misses(
    encoders: tuple[TextEncoder, VideoEncoder], tmp_path: Path
) -> None:
    evaluation = evaluate([Pair("a", tmp_path / "a.mp4", "one"), Pair("b", tmp_path / "b.mp4", "two")], *encoders)
    assert evaluation.text_to_video.recall_at_10 == 0
    assert evaluation.text_to_video.missed == evaluation.video_to_text.missed == 2


def test_every_sentence_and_every_video_is_embedded_once(
    encoders: tuple[TextEncoder, VideoEncoder], pairs: list[Pair]
) -> None:
    texts, videos = [], []

    class CountingText(TextEncoder):
        def __call__(self, sentences: list[str]) -> np.ndarray:  # type: ignore[override]
            texts.extend(sentences)
            return encoders[0](sentences)

    class CountingVideo(VideoEncoder):
        def __call__(self, batch: list) -> np.ndarray:  # type: ignore[override]
            videos.extend(batch)
            return encoders[1](batch)

    counting = CountingText(None, encoders[0].config), CountingVideo(None, None, encoders[1].config)  # type: ignore[arg-type]
    tracked: list[tuple[int, str]] = []

    def track(items: Iterable, total: int, description: str) -> Iterable:
        tracked.append((total, description))
        return items

    twice = [*pairs[:5], *(replace(pair, sentence="the same") for pair in pairs[:5])]
    evaluation = evaluate(twice, *counting, sampling=FrameSampling(frames=2), track=track)
    assert (len(texts), len(videos)) == (6, 5)
    assert (
        evaluation.pairs,
        evaluation.videos,
        evaluation.text_to_video.queries,
        evaluation.video_to_text.queries,
    ) == (10, 5, 10, 5)
    assert tracked == [(1, "embedding sentences"), (5, "embedding videos")]


def test_the_best_of_several_sentences_counts_from_video_to_text(
    encoders: tuple[TextEncoder, VideoEncoder], pairs: list[Pair]
) -> None:
    both = [*pairs, *(replace(pair, sentence=f"{pair.sentence} once more") for pair in pairs)]
    evaluation = evaluate(both, *encoders, sampling=FrameSampling(frames=2))
    best = np.maximum(evaluation.similarity[:24], evaluation.similarity[24:]).T
    expected = 1 + (best > np.diag(best)[:, None]).sum(1)
    assert np.abs(evaluation.video_ranks - expected).max() <= 0.5


def test_copies_of_one_video_share_their_rank(
    encoders: tuple[TextEncoder, VideoEncoder], pairs: list[Pair], tmp_path: Path
) -> None:
    copies = []
    for number in range(3):
        shutil.copy(pairs[0].path, tmp_path / f"{number}.mp4")
        copies.append(Pair(str(number), tmp_path / f"{number}.mp4", "what it shows"))
    assert evaluate(copies, *encoders, sampling=FrameSampling(frames=2)).text_ranks.tolist() == [2, 2, 2]


def test_no_pairs_empty_sentences_and_too_few_words_are_rejected(encoders: tuple[TextEncoder, VideoEncoder]) -> None:
    with pytest.raises(InputValueError, match="no pairs"):
        evaluate([], *encoders)
    with pytest.raises(PairsError, match="1 of 2 sentences are empty, the first of the video 'b'"):
        evaluate([Pair("a", Path("a.mp4"), "a dog"), Pair("b", Path("b.mp4"), " ")], *encoders)
    with pytest.raises(InputValueError, match="max_words must be at least 3"):
        evaluate([Pair("a", Path("a.mp4"), "a dog")], *encoders, max_words=2)


def test_sentences_are_cut_to_max_words(encoders: tuple[TextEncoder, VideoEncoder], pairs: list[Pair]) -> None:
    long, cut = (
        evaluate(
            [replace(pairs[0], sentence=sentence)], *encoders, sampling=FrameSampling(frames=1), max_words=4
        ).similarity
        for sentence in ("a dog and a cat", "a dog")
    )
    np.testing.assert_array_equal(long, cut)
