"""Files of graphs: compared with torch, written completely or not at all, in each precision."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from constants import DEMO_MODEL
from graphs import CAPTIONS, HEADS, State, head_state, normalised, run_graph
from processes import file_size_limit
from safetensors.torch import save_file

from clip4clip import ExportError
from clip4clip.config import MODELS
from clip4clip.operators import Clip4clip
from clip4clip.preprocess import pixel_values
from clip4clip.runtime import onnx_export
from clip4clip.tokenizer import default_tokenizer


@pytest.mark.parametrize(("precision", "least"), [("float16", 0.9999), ("int8", 0.9998)])
@pytest.mark.parametrize("modality", ["text", "video"])
def test_a_graph_of_lower_precision_is_smaller_and_close_to_float32(
    precision: str, least: float, modality: str, tmp_path: Path, frames: list[np.ndarray]
) -> None:
    operator = Clip4clip(DEMO_MODEL, modality, None, "cpu")
    operator.save_model("onnx", tmp_path / "float32.onnx")
    operator.save_model("onnx", tmp_path / "small.onnx", precision=precision)
    sizes = [(tmp_path / name).stat().st_size for name in ("small.onnx", "float32.onnx")]
    assert sizes[0] < 0.9 * sizes[1]  # in int8, the token embedding and one of three blocks stay float32
    if modality == "text":
        inputs = default_tokenizer(MODELS[DEMO_MODEL].config.vocab_size)(CAPTIONS, 48)
    else:
        inputs = pixel_values(frames, 64)
    small, exact = run_graph(tmp_path / "small.onnx", inputs), run_graph(tmp_path / "float32.onnx", inputs)
    cosine = (normalised(small) * normalised(exact)).sum(-1)
    assert least <= cosine.min()
    assert not np.array_equal(small, exact)


@pytest.mark.parametrize(("precision", "least"), [("float16", 0.9999), ("int8", 0.999)])
@pytest.mark.parametrize("head", HEADS)
def test_a_pooled_graph_of_lower_precision_is_close_to_float32(
    head: str, precision: str, least: float, tiny_state: State, tmp_path: Path, frames: list[np.ndarray]
) -> None:
    save_file(tiny_state | head_state(head), tmp_path / "model.safetensors")
    operator = Clip4clip("tiny", "video", tmp_path / "model.safetensors", "cpu")
    operator.save_model("onnx", tmp_path / "pooled.onnx", pooled=True, precision=precision)
    assert operator(frames) @ run_graph(tmp_path / "pooled.onnx", pixel_values(frames, 32)) > least


def test_a_graph_that_disagrees_with_torch_is_rejected_and_the_old_file_stays(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(config: object, tensors: dict[str, np.ndarray], *rest: bool) -> onnx.ModelProto:
        changed = tensors | {"ln_final.bias": tensors["ln_final.bias"] + 0.01}
        return original(config, changed, *rest)  # type: ignore[arg-type]

    original = onnx_export.text_graph
    monkeypatch.setattr(onnx_export, "text_graph", wrong)
    (tmp_path / "a.onnx").write_bytes(b"what Triton serves")
    with pytest.raises(
        ExportError, match=r"the vectors of a\.onnx in float32 are too far from those of torch: cosine 0\."
    ):
        Clip4clip("tiny", "text", tiny_checkpoint, "cpu", runtime="torch").save_model("onnx", tmp_path / "a.onnx")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"what Triton serves"]


@pytest.mark.parametrize(("levels", "is_rejected"), [(3, False), (1, True)])
def test_int8_vectors_that_are_less_close_are_warned_about_and_distant_ones_rejected(
    levels: int, is_rejected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("clip4clip.runtime.onnx_layers.MAX_WEIGHT_LEVEL", levels)
    operator = Clip4clip(DEMO_MODEL, "text", None, "cpu", runtime="torch")
    if is_rejected:
        with pytest.raises(
            ExportError, match=r"vectors of int8\.onnx in int8 are too far from those of torch: cosine 0"
        ):
            operator.save_model("onnx", tmp_path / "int8.onnx", precision="int8")
        return
    operator.save_model("onnx", tmp_path / "int8.onnx", precision="int8")
    assert re.search(r"int8\.onnx: vectors of this checkpoint in int8 have a cosine of only 0\.99[0-8]", caplog.text)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_file_that_cannot_be_written_is_an_error_and_the_old_file_stays(
    precision: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    text = Clip4clip("tiny", "text", tiny_checkpoint, "cpu")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "a.onnx").write_bytes(b"what Triton serves")
    with pytest.raises(ExportError, match=r"folder\.onnx cannot be written: .*Is a directory"):
        text.save_model("onnx", tmp_path / "folder.onnx", precision=precision)
    with file_size_limit(2**20), pytest.raises(ExportError, match=r"a\.onnx cannot be written: .*File too large"):
        text.save_model("onnx", tmp_path / "a.onnx", precision=precision)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "folder.onnx"]
    assert (tmp_path / "a.onnx").read_bytes() == b"what Triton serves"


def test_the_target_of_a_link_is_replaced_and_keeps_its_mode(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "model.onnx").touch(0o640)
    (tmp_path / "link.onnx").symlink_to(tmp_path / "served" / "model.onnx")
    Clip4clip("tiny", "text", tiny_checkpoint, "cpu").save_model("onnx", tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert (tmp_path / "served" / "model.onnx").stat().st_size > 10_000
    assert (tmp_path / "served" / "model.onnx").stat().st_mode & 0o777 == 0o640


def test_temporary_files_are_written_beside_the_target(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(model: onnx.ModelProto, path: Path, *rest: bool) -> None:
        written.append(path)
        write_model(model, path, *rest)

    text = Clip4clip("tiny", "text", tiny_checkpoint, "cpu", runtime="torch")
    write_model, written = onnx_export.write_model, []
    monkeypatch.setattr(onnx_export, "write_model", record)
    text.save_model("onnx", tmp_path / "int8.onnx", precision="int8")
    assert len(written) == 1
    assert all(tmp_path in path.parents for path in written)
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]
