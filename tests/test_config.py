"""The models by name, and the sizes of networks compared with theirs."""

from __future__ import annotations

import pytest

from clip4clip import UnknownNameError
from clip4clip.config import MODELS, find_mismatches, get_model


def test_an_unknown_model_is_an_error_that_lists_the_models() -> None:
    assert get_model("clip_vit_b16").config.patch_size == 16
    with pytest.raises(UnknownNameError, match="unknown model 'vit'; the models are clip_vit_b32, clip_vit_b16"):
        get_model("vit")


@pytest.mark.parametrize("name", ["clip_vit_b32", "clip_vit_b16", "clip_vit_tiny_demo"])
def test_the_sizes_of_a_model_have_no_mismatches_with_it(name: str) -> None:
    assert find_mismatches(vars(MODELS[name].config), MODELS[name].config) == ([], "")
    assert find_mismatches({}, MODELS[name].config) == ([], "")


def test_the_sizes_of_another_model_are_named_with_that_model() -> None:
    assert find_mismatches({"patch_size": 16, "vision_width": 768}, MODELS["clip_vit_b32"].config) == (
        ["patch_size is 16, not 32"],
        " It fits model_name='clip_vit_b16'.",
    )
    assert find_mismatches({"patch_size": 28}, MODELS["clip_vit_b32"].config) == (["patch_size is 28, not 32"], "")
