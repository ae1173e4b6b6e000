"""Channels with outliers do no harm in 8 bits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from constants import DEMO_MODEL
from graphs import NETWORKS, State, compute, normalised, random_inputs, run_graph, tower_of

from clip4clip.config import MODELS
from clip4clip.runtime.onnx_export import save_tower
from clip4clip.runtime.onnx_smoothing import smoothed_tensors, tensors_of
from clip4clip.runtime.onnx_towers import text_graph, vision_graph


def with_outliers(state: State, factor: float) -> State:
    """Make a few channels of each linear layer's input much larger than the others, as in trained models."""
    state = {name: tensor.clone() for name, tensor in state.items()}
    random = torch.Generator().manual_seed(0)
    for name in [name.removesuffix("ln_1.weight") for name in state if name.endswith("ln_1.weight")]:
        width = len(state[f"{name}ln_1.weight"])
        for taker, maker in (
            ("attn.in_proj_weight", "ln_1."),
            ("attn.out_proj.weight", "attn.in_proj_"),
            ("mlp.c_fc.weight", "ln_2."),
            ("mlp.c_proj.weight", "mlp.c_fc."),
        ):
            channels = torch.randperm(state[name + taker].shape[1], generator=random)[:3]
            state[name + taker][:, channels] /= factor
            for kind in ("weight", "bias"):
                state[name + maker + kind][channels + (2 * width if taker == "attn.out_proj.weight" else 0)] *= factor
    return state


@pytest.mark.parametrize("modality", ["text", "video"])
@pytest.mark.parametrize("network", [DEMO_MODEL, "gelu", "perception"])
def test_outliers_are_smoothed_without_changing_the_network(
    network: str,
    modality: str,
    random_state: Callable[..., State],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = NETWORKS[network] if network in NETWORKS else MODELS[network].config
    tower = tower_of(config, modality, with_outliers(random_state(config), 20))
    inputs = random_inputs(config, modality, 8)
    expected = compute(tower, inputs)
    save_tower(tower, tmp_path / "int8.onnx", precision="int8")
    assert (normalised(run_graph(tmp_path / "int8.onnx", inputs)) * normalised(expected)).sum(-1).min() > 0.999
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and "cosine" in record.message]
    make = text_graph if modality == "text" else vision_graph
    graphs = [make(tower.config, tensors) for tensors in (tensors_of(tower), smoothed_tensors(tower, inputs))]
    for number, graph in enumerate(graphs):
        onnx.save(graph, tmp_path / f"{number}.onnx")
    exact, smoothed = (run_graph(tmp_path / f"{number}.onnx", inputs) for number in range(2))
    np.testing.assert_allclose(smoothed, exact, rtol=1e-4, atol=1e-5)
    assert (normalised(smoothed) * normalised(expected)).sum(-1).min() > 0.999999
