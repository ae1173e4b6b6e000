"""What several tests of checkpoints share: reference vectors, and a checkpoint in Hugging Face's format.

transformers takes seconds to import, so only the fixtures do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import embed
from peer_models import hugging_face_config

from clip4clip.config import MODELS


@pytest.fixture(scope="session")
def expected_vectors(tiny_checkpoint: Path) -> Callable[[str], np.ndarray]:
    """Modality to the vectors of ``tiny_checkpoint``."""
    vectors = {modality: embed(tiny_checkpoint, modality) for modality in ("text", "video")}
    return vectors.__getitem__


@pytest.fixture(scope="session")
def hugging_face_model() -> Any:
    """A random CLIP of the shape of ``tiny`` whose biases and norms are not trivial either."""
    from transformers import CLIPModel

    torch.manual_seed(0)
    model = CLIPModel(hugging_face_config(MODELS["tiny"].config)).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return model


@pytest.fixture(scope="session")
def hugging_face_folder(hugging_face_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``save_pretrained`` writes."""
    folder = tmp_path_factory.mktemp("hugging_face")
    hugging_face_model.save_pretrained(folder)
    return folder
