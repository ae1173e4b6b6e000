"""An index of one model, searched by a text tower that was made for the vectors of that model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from constants import DEMO_MODEL
from index_rows import random_rows
from text_towers import TEXTS, write_mclip, write_sentence_transformer
from typer.testing import CliRunner

from clip4clip import ModelMismatchError, TextEncoder, UnknownNameError, VideoEncoder
from clip4clip.cli import app
from clip4clip.config import MODELS, Model
from clip4clip.encoder import EncoderSpec
from clip4clip.evaluation.evaluate import evaluate
from clip4clip.evaluation.pairs import read_pairs
from clip4clip.index import calibration
from clip4clip.library.table import read_rows
from clip4clip.retrieval import VideoIndex
from clip4clip.training import TrainingConfig

NAME = "demo_multilingual"
SENTENCES = ["ein Hund läuft über die Straße", "кошка на снегу"]


@pytest.fixture(autouse=True)
def text_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers a text tower for the vectors of the demo model, and one for those of the model tiny."""
    for name, image_model in ((NAME, DEMO_MODEL), ("tiny_multilingual", "tiny")):
        model = Model(MODELS[image_model].config, aligned_with=image_model)
        monkeypatch.setitem(MODELS, name, model)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentence_transformer(tmp_path_factory.mktemp("towers") / "tower", 128)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, drawings_table: Path) -> str:
    """An index of 24 clips, of the demo model."""
    path = str(tmp_path_factory.mktemp("index") / "videos.db")
    with VideoIndex(path, encoder=EncoderSpec(DEMO_MODEL)) as index:
        index.add(drawings_table)
    return path


def test_sentences_are_compared_with_the_vectors_of_the_other_model(
    uri: str, tower: Path, drawings_table: Path, captions: dict[str, str]
) -> None:
    vectors = np.stack([row["vector"] for row in read_rows(drawings_table)])
    encoder = TextEncoder.load(NAME, tower)
    with VideoIndex(uri, encoder=EncoderSpec(NAME, tower)) as index, VideoIndex(uri) as plain:
        for sentence in SENTENCES:
            hits = index.search(sentence, limit=3)
            best = np.sort(vectors @ encoder(sentence))[::-1][:3]
            np.testing.assert_allclose([hit.score for hit in hits], best, atol=1e-5)
        clip = next(iter(captions.values()))  # videos are compared by the vision tower of the other model
        assert index.search(video=clip, limit=3) == plain.search(video=clip, limit=3)
        assert index.model == plain.model
        assert [len(row.tags) for row in index.tags(SENTENCES)] == [1] * 24


def test_what_scores_mean_depends_on_the_text_tower(
    uri: str, tower: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "read_captions", lambda: TEXTS)
    write_mclip(tmp_path / "mclip", 128)
    thresholds = []
    for encoder in (EncoderSpec(DEMO_MODEL), EncoderSpec(NAME, tower), EncoderSpec(NAME, tmp_path / "mclip")):
        for _ in range(2):  # computed, then from the cache
            with VideoIndex(uri, encoder=encoder) as index:
                found = index.calibration()
                assert found is not None
                thresholds.append(found.threshold)
    assert thresholds[::2] == thresholds[1::2]
    assert len(set(thresholds)) == 3


def test_a_new_index_is_one_of_the_other_model(tower: Path, tmp_path: Path, drawings: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    clip = next((drawings / "eval").glob("*.mp4"))
    (folder / clip.name).write_bytes(clip.read_bytes())
    with VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec(NAME, tower)) as index:
        index.sync(folder)
    with VideoIndex(tmp_path / "videos.db") as index:
        assert (index.model, index.count()) == (EncoderSpec(DEMO_MODEL).identify(), 1)


def test_vectors_of_other_weights_are_refused(
    tower: Path, uri: str, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        VideoIndex(uri, encoder=EncoderSpec("tiny_multilingual", tower)) as index,
        pytest.raises(ModelMismatchError, match=DEMO_MODEL),
    ):
        index.search(SENTENCES[0])
    # A network of the same shape, but other weights: they are compared by their fingerprint.
    monkeypatch.setitem(MODELS, "other", Model(MODELS["tiny"].config, weights=str(tiny_checkpoint)))  # type: ignore[arg-type]
    monkeypatch.setitem(MODELS, "other_multilingual", Model(MODELS["tiny"].config, aligned_with="other"))  # type: ignore[arg-type]
    words = write_sentence_transformer(tmp_path / "words", 64)
    with VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec("other")) as index:
        identity = EncoderSpec("other").identify()
        index.add([row | vars(identity) for row in random_rows(3, dim=64)])
    with VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec("other_multilingual", words)) as index:
        assert len(index.search(SENTENCES[0])) == 3
    changed = tmp_path / "changed"
    changed.mkdir()
    from safetensors.torch import load_file, save_file

    state = load_file(tiny_checkpoint)
    save_file(state | {"visual.proj": state["visual.proj"] + 0.1}, changed / "model.safetensors")
    (changed / "open_clip_config.json").write_bytes((tiny_checkpoint.parent / "open_clip_config.json").read_bytes())
    monkeypatch.setitem(MODELS, "other", Model(MODELS["tiny"].config, weights=str(changed)))  # type: ignore[arg-type]
    with (
        VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec("other_multilingual", words)) as index,
        pytest.raises(ModelMismatchError, match="other with the weights"),
    ):
        index.search(SENTENCES[0])


def test_commands_take_a_text_tower(uri: str, tower: Path, drawings_table: Path, tmp_path: Path) -> None:
    encoder = ["-m", NAME, "-w", str(tower)]

    def run(*command: str) -> list[Any]:
        result = CliRunner().invoke(app, [*command, *encoder])
        assert result.exit_code == 0, (result.output, result.exception)
        return [json.loads(line) for line in result.stdout.splitlines()]

    rows = run("embed-text", *SENTENCES, "--json")
    vectors = TextEncoder.load(NAME, tower)(SENTENCES)
    np.testing.assert_allclose([row["vector"] for row in rows], vectors, atol=1e-5)
    hits = run("search", SENTENCES[0], "--uri", uri, "-k", "2", "--json")
    assert len(hits) == 2
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(SENTENCES), encoding="utf-8")
    run("tag", str(drawings_table), "--labels", str(labels), "-o", str(tmp_path / "tags.csv"))
    assert len((tmp_path / "tags.csv").read_text("utf-8").splitlines()) == 25


def test_pairs_are_evaluated_with_a_text_tower(tower: Path, drawings: Path) -> None:
    pairs = read_pairs(drawings / "eval.csv", drawings)[:4]
    encoders = TextEncoder.load(NAME, tower), VideoEncoder.load(NAME, tower)
    similarity = evaluate(pairs, *encoders, max_words=5).similarity
    short = TextEncoder.load(NAME, tower).model
    ids = [encoders[0].tokenizer.encode(pair.sentence, 5) for pair in pairs]  # type: ignore[union-attr]
    vectors = short(encoders[0].tokenizer.pad(ids))  # type: ignore[union-attr]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert similarity.shape == (4, 4)
    assert {len(row) for row in ids} == {5}
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "onnxruntime": (lambda tower: TextEncoder.load(NAME, tower, runtime="onnxruntime"), "runs only with torch"),
    "compiled": (lambda tower: TextEncoder.load(NAME, tower, compiled=True), "leave out runtime and compiled"),
    "int8": (lambda tower: TextEncoder.load(NAME, tower, "cpu", precision="int8"), "precision 'int8', only float32"),
    "training": (
        lambda _: TrainingConfig("pairs.csv", "videos", "out", model=NAME),
        f"only a text tower, made for the vectors of {DEMO_MODEL}",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_text_tower_cannot_do_is_refused_with_what_to_do(what: str, tower: Path) -> None:
    call, message = REFUSED[what]
    with pytest.raises(UnknownNameError, match=message):
        call(tower)


def test_encoders_of_one_folder_share_the_tower(tower: Path) -> None:
    first, second = TextEncoder.load(NAME, tower), TextEncoder.load(NAME, tower, "cpu", "torch")
    assert first.model is second.model
    assert TextEncoder.load(NAME, tower, precision="bfloat16").model is not first.model
