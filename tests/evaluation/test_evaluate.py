from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip4clip import InputValueError, MissingExtraError, PairsError, TextEncoder, VideoEncoder
from clip4clip.evaluation.evaluate import Evaluation, evaluate, save_histogram
from clip4clip.evaluation.pairs import Pair, read_pairs
from clip4clip.video import FrameSampling, read_frames


@pytest.fixture(scope="module")
def encoders(tiny_checkpoint: Path) -> tuple[TextEncoder, VideoEncoder]:
    return TextEncoder.load("tiny", tiny_checkpoint, "cpu"), VideoEncoder.load("tiny", tiny_checkpoint, "cpu")


@pytest.fixture(scope="module")
def pairs(drawings: Path) -> list[Pair]:
    return read_pairs(drawings / "eval.csv", drawings)


def test_the_figures_are_those_of_the_vectors(encoders: tuple[TextEncoder, VideoEncoder], pairs: list[Pair]) -> None:
    found = evaluate(pairs, *encoders, sampling=FrameSampling(frames=3))
    text, video = encoders
    similarity = text([pair.sentence for pair in pairs]) @ video([read_frames(pair.path, 3) for pair in pairs]).T
    np.testing.assert_allclose(found.similarity, similarity, atol=2e-6)
    own = np.diag(similarity)
    assert np.abs(found.text_ranks - (1 + (similarity > own[:, None]).sum(1))).max() <= 0.5
    assert np.abs(found.video_ranks - (1 + (similarity > own[None]).sum(0))).max() <= 0.5
    assert (found.pairs, found.videos, found.failed) == (24, 24, {})
    assert found.video_names == [pair.video for pair in pairs]
    assert found.to_dict()["text_to_video"]["mean_rank"] == found.text_to_video.mean_rank


def test_a_video_that_cannot_be_decoded_is_a_miss_and_is_named(
    encoders: tuple[TextEncoder, VideoEncoder], pairs: list[Pair], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    damaged = [replace(pairs[0], video="broken", path=broken), *pairs[1:]]
    found = evaluate(damaged, *encoders, sampling=FrameSampling(frames=3))
    assert list(found.failed) == ["broken"]
    assert "broken.mp4" in found.failed["broken"]
    assert (found.videos, found.text_to_video.queries, found.text_to_video.missed) == (24, 24, 1)
    assert found.video_to_text.missed == 1
    assert np.isnan(found.text_ranks[0])
    assert not np.isnan(found.text_ranks[1:]).any()
    whole = evaluate(pairs, *encoders, sampling=FrameSampling(frames=3))
    assert found.text_to_video.mean_rank >= (whole.text_ranks[1:].sum() - 23 + 24) / 24  # last among 24, not left out


def test_all_videos_failing_is_a_result_too(encoders: tuple[TextEncoder, VideoEncoder], tmp_path: Path) -> None:
    found = evaluate([Pair("a", tmp_path / "a.mp4", "one"), Pair("b", tmp_path / "b.mp4", "two")], *encoders)
    assert found.text_to_video.recall_at_10 == 0
    assert found.text_to_video.missed == found.video_to_text.missed == 2


def test_every_sentence_and_every_video_is_embedded_once(
    encoders: tuple[TextEncoder, VideoEncoder], pairs: list[Pair]
) -> None:
    texts, videos = [], []

    class CountingText(TextEncoder):
        def __call__(self, given: list[str]) -> np.ndarray:  # type: ignore[override]
            texts.extend(given)
            return encoders[0](given)

    class CountingVideo(VideoEncoder):
        def __call__(self, given: list) -> np.ndarray:  # type: ignore[override]
            videos.extend(given)
            return encoders[1](given)

    counting = CountingText(None, encoders[0].config), CountingVideo(None, None, encoders[1].config)  # type: ignore[arg-type]
    told: list[tuple[int, str]] = []

    def track(items: Iterable, total: int, what: str) -> Iterable:
        told.append((total, what))
        return items

    twice = [*pairs[:5], *(replace(pair, sentence="the same") for pair in pairs[:5])]
    found = evaluate(twice, *counting, sampling=FrameSampling(frames=2), track=track)
    assert (len(texts), len(videos)) == (6, 5)
    assert (found.pairs, found.videos, found.text_to_video.queries, found.video_to_text.queries) == (10, 5, 10, 5)
    assert told == [(1, "embedding sentences"), (5, "embedding videos")]


def test_of_several_sentences_the_best_counts(encoders: tuple[TextEncoder, VideoEncoder], pairs: list[Pair]) -> None:
    both = [*pairs, *(replace(pair, sentence=f"{pair.sentence} once more") for pair in pairs)]
    found = evaluate(both, *encoders, sampling=FrameSampling(frames=2))
    best = np.maximum(found.similarity[:24], found.similarity[24:]).T
    expected = 1 + (best > np.diag(best)[:, None]).sum(1)
    assert np.abs(found.video_ranks - expected).max() <= 0.5


def test_copies_of_one_video_share_their_rank(
    encoders: tuple[TextEncoder, VideoEncoder], pairs: list[Pair], tmp_path: Path
) -> None:
    copies = []
    for number in range(3):
        shutil.copy(pairs[0].path, tmp_path / f"{number}.mp4")
        copies.append(Pair(str(number), tmp_path / f"{number}.mp4", "what it shows"))
    assert evaluate(copies, *encoders, sampling=FrameSampling(frames=2)).text_ranks.tolist() == [2, 2, 2]


def test_no_pairs_are_refused(encoders: tuple[TextEncoder, VideoEncoder]) -> None:
    with pytest.raises(InputValueError, match="no pairs"):
        evaluate([], *encoders)
    with pytest.raises(PairsError, match="1 of 2 sentences are empty, the first of the video 'b'"):
        evaluate([Pair("a", Path("a.mp4"), "a dog"), Pair("b", Path("b.mp4"), " ")], *encoders)


@pytest.fixture(scope="module")
def found(encoders: tuple[TextEncoder, VideoEncoder], pairs: list[Pair]) -> Evaluation:
    return evaluate(pairs, *encoders, sampling=FrameSampling(frames=2))


def test_a_histogram_is_a_picture(found: Evaluation, tmp_path: Path) -> None:
    save_histogram(found, tmp_path / "ranks.png")
    with Image.open(tmp_path / "ranks.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 800
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_without_matplotlib_the_error_names_the_extra(
    found: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'towhee-clip4clip\[plot\]'"):
        save_histogram(found, tmp_path / "ranks.png")
    assert not (tmp_path / "ranks.png").exists()


def test_a_histogram_that_cannot_be_written_is_refused(found: Evaluation, tmp_path: Path) -> None:
    for name in ("ranks.bmp", "ranks"):
        with pytest.raises(InputValueError, match=r"cannot be written as .*ranks.*\.png"):
            save_histogram(found, tmp_path / name)
