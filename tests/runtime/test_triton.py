"""Triton's configuration of a model in a repository."""

from __future__ import annotations

from pathlib import Path

import pytest
from constants import DEMO_MODEL

from clip4clip.operators import Clip4clip
from clip4clip.runtime.triton import set_max_batch_size

CONFIGURATION = 'name: "a"\nbackend: "onnxruntime"\n'


def test_the_largest_batch_is_written_once(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    config = tmp_path / "config.pbtxt"
    config.write_text(CONFIGURATION)
    for size in (32, 64):
        set_max_batch_size(tmp_path / "1" / "model.onnx", size)
        assert config.read_text() == f"{CONFIGURATION}max_batch_size: 32\n"


@pytest.mark.parametrize("folder", ["1", "graphs"])
def test_the_configuration_of_other_models_is_not_changed(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    config = tmp_path / "config.pbtxt"
    config.write_text(CONFIGURATION)
    video = Clip4clip(DEMO_MODEL, "video", device="cpu")
    video.save_model("onnx", tmp_path / folder / "model.onnx", pooled=folder == "1")  # a pooled graph has no batches
    assert config.read_text() == CONFIGURATION
