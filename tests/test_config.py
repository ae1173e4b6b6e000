"""The models by name, those of other people among them, and networks compared with theirs."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from constants import TINY

from clip4clip import EncoderSpec, InputTypeError, InputValueError, TextEncoder, UnknownNameError, WeightsNotFoundError
from clip4clip import register_model as exported_register_model
from clip4clip.config import (
    MODELS,
    CLIPConfig,
    Model,
    get_config,
    get_model,
    is_registered,
    register_model,
)
from clip4clip.model_facts import FACTS
from clip4clip.weights.hub import HubReference


@pytest.fixture
def own_names() -> Iterator[None]:
    """Forget what a test registers."""
    before = dict(MODELS)
    yield
    models: dict[str, Model] = MODELS  # type: ignore[assignment]
    models.clear()
    models.update(before)


@pytest.fixture
def described_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A folder with a checkpoint of the model ``tiny``, and the configuration that open_clip would write."""
    network = {"embed_dim": TINY.embed_dim, "quick_gelu": True}
    vision = {"image_size": TINY.resolution, "patch_size": TINY.patch_size, "width": 128, "layers": 2}
    text = {"context_length": TINY.context_length, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    folder = tmp_path / "described"
    folder.mkdir()
    shutil.copy(tiny_checkpoint, folder / "model.safetensors")
    configuration = {"model_cfg": network | {"vision_cfg": vision, "text_cfg": text}}
    (folder / "open_clip_config.json").write_text(json.dumps(configuration))
    return folder


@pytest.mark.parametrize(
    ("field", "value"), [("embed_dim", "512"), ("vision_width", 768.0), ("rotary", 1), ("norm_eps", "x"), ("image", {})]
)
def test_a_configuration_of_the_wrong_type_is_an_error(field: str, value: object) -> None:
    with pytest.raises(InputTypeError, match=f"{field} must be of the type"):
        CLIPConfig(**{field: value})


def test_an_unknown_model_is_an_error_that_lists_the_models() -> None:
    assert get_model("clip_vit_b16").config.patch_size == 16
    with pytest.raises(UnknownNameError, match="unknown model 'vit'; the models are clip_vit_b32, clip_vit_b16"):
        get_model("vit")


@pytest.mark.parametrize(
    ("name", "meant"), [("clip_vit_b23", "clip_vit_b32"), ("PE-Core-B16", "pe_core_b16"), ("ViT-B/32", "clip_vit_b32")]
)
def test_an_unknown_model_is_an_error_that_suggests_similar_names(name: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"unknown model '{name}', did you mean .*{meant}.*\? The models are"):
        get_model(name)


def test_each_model_of_the_package_has_facts_and_a_default_that_never_changes() -> None:
    names = [name for name in MODELS if not is_registered(name)]
    assert names == list(FACTS)
    for name in names:
        model, facts = MODELS[name], FACTS[name]
        assert model.config is not None
        assert model.packaged_file or len(HubReference.parse(model.hub).revision or "") == 40
        assert facts.sources or model.packaged_file
        assert model.is_trusted <= (facts.unverified == "")


def test_a_registered_model_is_loaded_by_its_name(
    own_names: None, described_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = described_checkpoint / "model.safetensors"
    assert exported_register_model is register_model
    expected = TextEncoder.load("tiny", checkpoint, "cpu", "torch")("a dog")
    monkeypatch.chdir(described_checkpoint)
    register_model("by-network", TINY, checkpoint.name)  # a relative path, which still holds after chdir
    register_model("by_folder.2", weights=Path())
    register_model("network_only", TINY)
    monkeypatch.chdir(tmp_path)
    for name in ("by-network", "by_folder.2"):
        assert np.array_equal(TextEncoder.load(name, None, "cpu", "torch")("a dog"), expected)
    assert np.array_equal(TextEncoder.load("network_only", checkpoint, "cpu", "torch")("a dog"), expected)
    with pytest.raises(WeightsNotFoundError, match=r"network_only was registered without default weights\. Pass"):
        TextEncoder.load("network_only", device="cpu")
    with pytest.raises(UnknownNameError, match=r"the network of 'by_folder\.2' is known only from its weights"):
        get_config("by_folder.2")


def test_a_model_may_be_registered_twice_but_a_name_not_for_two_models(own_names: None) -> None:
    register_model("own", TINY)
    register_model("own", TINY)
    with pytest.raises(InputValueError, match="'own' is already registered for something else in this process: Model"):
        register_model("own", replace(TINY, activation="gelu"))
    with pytest.raises(InputValueError, match="'clip_vit_b32' is a model of this package"):
        register_model("clip_vit_b32", get_config("clip_vit_b32"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"name": "my model", "config": TINY},
            InputValueError,
            "invalid name of a model: 'my model'; expected 1 to 64",
        ),
        ({"name": "", "config": TINY}, InputValueError, "invalid name of a model: ''"),
        ({"name": 3, "config": TINY}, InputTypeError, "name must be a str, not int"),
        ({"name": "own", "config": {"embed_dim": 3}}, InputTypeError, "config must be a CLIPConfig or None, not dict"),
        ({"name": "own", "weights": 3}, InputTypeError, "weights must be a path, a hub reference or None, not int"),
        ({"name": "own", "weights": ""}, InputValueError, "weights must not be an empty path"),
        ({"name": "own"}, InputValueError, "model 'own' needs a config, or weights to read it from"),
        ({"name": "own", "weights": "x", "aligned_with": "vit"}, UnknownNameError, "unknown model 'vit'"),
        (
            {"name": "own", "weights": "x", "aligned_with": "clip_vit_b32_mclip"},
            InputValueError,
            "'clip_vit_b32_mclip' has that of 'clip_vit_b32'",
        ),
        (
            {"name": "own", "config": TINY, "aligned_with": "clip_vit_b32"},
            InputValueError,
            "the vectors of 'clip_vit_b32' have 512 numbers, those of config 64",
        ),
    ],
)
def test_what_cannot_be_registered_is_an_error(
    own_names: None, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        register_model(**arguments)
    assert "own" not in MODELS


def test_of_several_threads_that_register_one_name_one_succeeds(own_names: None) -> None:
    def register(width: int) -> int:
        try:
            register_model("own", replace(TINY, text_head_width=width))
        except InputValueError:
            return 0
        return width

    with ThreadPoolExecutor(8) as pool:
        (winner,) = filter(None, pool.map(register, (1, 2, 4, 8, 16, 32, 64)))
    assert get_config("own").text_head_width == winner


def test_a_spec_takes_a_registered_model_into_another_process(own_names: None, tiny_checkpoint: Path) -> None:
    register_model("image_tower", TINY, tiny_checkpoint)
    register_model("text_tower", weights="other", aligned_with="image_tower")
    specs = [EncoderSpec("text_tower"), EncoderSpec("image_tower", device="cpu")]
    program = (
        "import pickle, sys; text, image = pickle.load(sys.stdin.buffer);"
        "from clip4clip.config import get_model; print(get_model(text.model_name).aligned_with, image.device);"
        "print(image.identify())"
    )
    done = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(specs), capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == ["image_tower cpu", str(specs[1].identify())]
    assert pickle.loads(pickle.dumps(specs)) == specs


def test_two_names_of_one_network_do_not_contradict_each_other(own_names: None, described_checkpoint: Path) -> None:
    register_model("same", TINY, described_checkpoint)
    register_model("unknown", weights=described_checkpoint)
    register_model("different", replace(TINY, activation="gelu"), described_checkpoint)
    vectors_of = EncoderSpec("tiny", described_checkpoint).identify()
    assert not EncoderSpec("same").contradicts(vectors_of)
    assert not EncoderSpec("unknown").contradicts(vectors_of)
    assert EncoderSpec("different").contradicts(vectors_of)
    assert EncoderSpec("same").identify() == EncoderSpec("unknown").identify() == vectors_of
