"""An operator's tower is exported with its current weights, and with its head on request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import HEADS, RUNTIMES, State, head_state, run_graph
from safetensors.torch import save_file

from clip4clip.operators import Clip4clip
from clip4clip.preprocess import pixel_values


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_pooled_graph_gives_the_vector_of_a_video(
    head: str, runtime: str, tiny_state: State, tmp_path: Path, frames: list[np.ndarray]
) -> None:
    save_file(tiny_state | head_state(head), tmp_path / "model.safetensors")
    operator = Clip4clip("tiny", "video", tmp_path / "model.safetensors", "cpu", runtime=runtime)
    operator.save_model("onnx", tmp_path / "pooled.onnx", pooled=True)
    for chosen in (frames, frames[:1]):
        vector = run_graph(tmp_path / "pooled.onnx", pixel_values(chosen, 32))
        assert vector.shape == (64,)
        np.testing.assert_allclose(vector, operator(chosen), atol=1e-5)


def test_a_tower_that_was_changed_since_it_was_loaded_is_exported_as_it_is_now(
    tiny_state: State, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "model.safetensors"  # of its own: other tests must not share the tower
    save_file(tiny_state, checkpoint)
    operator = Clip4clip("tiny", "text", checkpoint, "cpu", runtime="torch")
    before = operator("a dog")
    operator.model.module.ln_final.bias.data += 1
    operator.save_model("onnx", tmp_path / "text.onnx")
    exported = run_graph(tmp_path / "text.onnx", np.array([[49406, 320, 1929, 49407]]))[0]
    np.testing.assert_allclose(exported / np.linalg.norm(exported), operator("a dog"), atol=1e-5)
    assert not np.allclose(operator("a dog"), before, atol=1e-3)
