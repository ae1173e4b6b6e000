"""What the best score of a sentence means: thresholds, their cache, and when they are computed again."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from constants import DEMO_MODEL
from index_rows import random_rows

from clip4clip import IndexUnavailableError, InputTypeError, InputValueError
from clip4clip.cache import cache_folder
from clip4clip.encoder import EncoderSpec, TextEncoder
from clip4clip.index import codes
from clip4clip.index.calibration import Calibration, Calibrator, caption_vectors, read_captions
from clip4clip.index.engine import Engine
from clip4clip.retrieval import VideoIndex
from clip4clip.weights.identity import Identity, identify

TEXT_TOWER = "0" * 16


@pytest.fixture
def captions_cache() -> Iterator[Path]:
    """The folder of the vectors of captions: empty before and after a test. Encoders of other tests use its parent."""
    folder = cache_folder() / "captions"
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class CountingEmbedder:
    """Returns the same random unit vectors, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.calls += 1
        vectors = np.random.default_rng(0).normal(size=(len(texts), 128)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_bank_has_different_captions_that_no_model_cuts() -> None:
    captions = read_captions()
    assert 200 < len(captions) < 400
    assert len({*captions}) == len(captions)
    assert all(caption == caption.strip() and 1 < len(caption.split()) < 20 for caption in captions)


def test_the_threshold_is_two_spreads_above_the_median_even_if_the_index_has_half_of_the_captions() -> None:
    normal = np.random.default_rng(0).normal(0.25, 0.02, 100_000)
    calibration = Calibration.of(normal)
    assert calibration.threshold == pytest.approx(0.29, abs=0.001)
    assert calibration.probably_here(calibration.threshold)
    assert not calibration.probably_here(calibration.threshold - 1e-6)
    shown = np.where(normal > 0.26, 0.4, normal)
    assert Calibration.of(shown).threshold == calibration.threshold


def test_sentences_of_drawn_clips_are_here_and_others_are_not(
    index: VideoIndex, drawings_table: Path, captions: dict[str, str]
) -> None:
    index.add(drawings_table)
    calibration = index.calibration()
    assert calibration is not None
    assert all(calibration.probably_here(index.search(caption, limit=1)[0].score) for caption in captions)
    for sentence in ("a dog jumps into the water", "kids feeding a horse", "a man plays the trumpet"):
        assert not calibration.probably_here(index.search(sentence, limit=1)[0].score)


def test_an_index_is_calibrated_once_for_each_of_its_states(index: VideoIndex) -> None:
    index.create()
    assert index.calibration() is None
    rows = random_rows(4)
    index.add(rows)
    first = index.calibration()
    assert first is not None
    assert index.calibration() is first
    index.add(random_rows(30, start=10))
    assert index.calibration() != first
    index.delete([f"v{number}" for number in range(10, 40)])
    again = index.calibration()
    assert again is not None
    assert again.threshold == pytest.approx(first.threshold, abs=1e-5)


def test_without_waiting_a_calibration_comes_from_the_background(
    captions_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    embed = CountingEmbedder()

    def embed_slowly(texts: list[str]) -> np.ndarray:
        assert release.wait(60)
        return embed(texts)

    with VideoIndex(tmp_path / "v.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        index.add(random_rows(4))
        monkeypatch.setattr(TextEncoder, "__call__", lambda _, texts: embed_slowly(texts))
        assert index.calibration(wait=False) is None
        assert index.calibration(wait=False) is None
        release.set()
        calibration = index.calibration()
        assert calibration is not None
        assert index.calibration(wait=False) is calibration
        assert embed.calls == 1
        release.clear()
    captions_cache.rename(tmp_path / "gone")
    with VideoIndex(tmp_path / "v.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        assert index.calibration(wait=False) is None
        threading.Timer(0.2, release.set).start()
    assert not [thread for thread in threading.enumerate() if thread.name == "clip4clip-calibration"]


def test_an_index_that_is_away_is_no_error_in_the_background(caplog: pytest.LogCaptureFixture) -> None:
    class Away:
        def version(self) -> str:
            raise IndexUnavailableError("away")

    engine: Engine = Away()  # type: ignore[assignment]
    calibrator = Calibrator(engine, lambda: TEXT_TOWER, CountingEmbedder())
    assert calibrator.peek() is None
    calibrator.close()
    assert calibrator.peek() is None
    assert caplog.messages == []


def test_any_other_error_in_the_background_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def version(self) -> str:
            raise MemoryError("no memory")

    engine: Engine = Broken()  # type: ignore[assignment]
    calibrator = Calibrator(engine, lambda: TEXT_TOWER, CountingEmbedder())
    assert calibrator.peek() is None
    calibrator.close()
    assert caplog.messages == ["the index could not be calibrated"]
    assert "no memory" in caplog.text


def test_callers_that_do_not_wait_share_one_thread_and_do_not_identify_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    started: list[str] = []

    def identify_slowly(*_: object) -> Identity:
        started.append(threading.current_thread().name)
        assert release.wait(60)
        raise InputValueError("no weights")

    with VideoIndex(tmp_path / "v.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        index.add(random_rows(4))
    monkeypatch.setattr(EncoderSpec, "checkpoint", identify_slowly)
    with VideoIndex(tmp_path / "v.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(index.calibration, wait=False) for _ in range(32)]
            assert [answer.result() for answer in answers] == [None] * 32
        release.set()
    assert started == ["clip4clip-calibration"]


def test_vectors_of_the_captions_are_cached_for_a_text_tower(captions_cache: Path) -> None:
    embed = CountingEmbedder()
    first = caption_vectors(TEXT_TOWER, embed)
    np.testing.assert_array_equal(caption_vectors(TEXT_TOWER, embed), first)
    assert embed.calls == 1
    caption_vectors("1" * 16, embed)
    assert embed.calls == 2
    for file in captions_cache.iterdir():
        file.write_bytes(b"not an array")
    np.testing.assert_array_equal(caption_vectors(TEXT_TOWER, embed), first)
    for file in captions_cache.iterdir():
        np.save(file, first[:2])
    np.testing.assert_array_equal(caption_vectors(TEXT_TOWER, embed), first)
    assert embed.calls == 4


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIP4CLIP_CACHE", str(tmp_path / "file"))
    embed = CountingEmbedder()
    np.testing.assert_array_equal(caption_vectors(TEXT_TOWER, embed), caption_vectors(TEXT_TOWER, embed))
    assert embed.calls == 2


def test_all_rows_of_an_index_are_compared(index: VideoIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "BEST_BLOCK", 64)
    rows = random_rows(300)
    index.add(rows)
    vectors = np.stack([row["vector"] for row in rows])
    np.testing.assert_allclose(index._engine.best_scores(vectors), 1, atol=0.01)
    index.delete(["v299"])
    scores = index._engine.best_scores(vectors)
    assert np.flatnonzero(scores < 0.9).tolist() == [299]


def test_a_least_score_leaves_out_what_is_below_it(index: VideoIndex) -> None:
    rows = random_rows(40)
    for number, row in enumerate(rows):
        row |= {"video": f"video{number % 5}", "start": float(number), "end": number + 1.5}
    index.add(rows)
    query = rows[0]["vector"] + rows[1]["vector"]
    for per_video in (None, 1, 2):
        hits = index.search(vector=query, limit=40, per_video=per_video)
        for least in (-1, 0.05, hits[1].score, 1):
            expected = [hit for hit in hits if hit.score >= least]
            assert index.search(vector=query, limit=40, per_video=per_video, min_score=least) == expected
    assert len(index.search(vector=query, limit=1, min_score=0)) == 1


@pytest.mark.parametrize("score", [1.5, -2, float("nan"), np.float32(30)])
def test_a_least_score_is_a_cosine_similarity(score: float, tmp_path: Path) -> None:
    with VideoIndex(tmp_path / "v.db") as index, pytest.raises(InputValueError, match="similarity from -1 to 1, not"):
        index.search("a star", min_score=score)


@pytest.mark.parametrize("score", ["0.5", True])
def test_a_least_score_is_a_number(score: object, tmp_path: Path) -> None:
    with VideoIndex(tmp_path / "v.db") as index, pytest.raises(InputTypeError, match="min_score must be a number"):
        index.search("a star", min_score=score)  # type: ignore[arg-type]


def test_the_captions_are_embedded_by_the_model_of_the_index(tmp_path: Path, captions_cache: Path) -> None:
    with VideoIndex(tmp_path / "v.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        index.add(random_rows(2))
        index.calibration()
    vectors = TextEncoder.load(DEMO_MODEL)(read_captions())
    cached = caption_vectors(identify(None, DEMO_MODEL).fingerprint, CountingEmbedder())
    np.testing.assert_allclose(cached, vectors, atol=1e-5)
    assert len([*captions_cache.iterdir()]) == 1
