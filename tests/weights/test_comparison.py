"""Facts about a network are compared with a model, and the models that they fit are named."""

from __future__ import annotations

import pytest

from clip4clip import CheckpointError
from clip4clip.config import MODELS, CLIPConfig, ImageConfig, get_config
from clip4clip.weights.comparison import HOW_TO_DESCRIBE, Fact, check_network, find_differences, find_models


def test_the_values_of_a_network_do_not_differ_from_it() -> None:
    config = CLIPConfig(patch_size=16)
    assert find_differences(vars(config), vars(config)) == {}
    assert find_differences({}, vars(config)) == {}
    check_network({name: Fact(value, "x.pt") for name, value in vars(config).items()}, config, "own")


def test_of_images_only_what_differs_is_shown() -> None:
    differences = find_differences({"image": ImageConfig(resize="squash")}, {"image": ImageConfig()})
    assert differences == {"image": "image is resize squash, not resize crop"}


def test_one_model_is_named_for_each_network_that_fits_and_no_text_tower() -> None:
    assert find_models({"patch_size": 32, "vision_width": 768}) == ["clip_vit_b32", "clip_vit_b32_laion2b"]
    assert find_models(vars(get_config("clip_vit_b32"))) == ["clip_vit_b32"]
    assert find_models({"patch_size": 15}) == []
    assert all(not MODELS[name].aligned_with for name in find_models({}))


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"patch_size": 16, "vision_width": 768}, "It fits model_name='clip_vit_b16' or 'clip_vit_b16_datacomp'"),
        ({"patch_size": 14, "vision_width": 768}, HOW_TO_DESCRIBE),
        (vars(CLIPConfig(patch_size=14)), "Leave out the name to load the network as it is."),
    ],
)
def test_a_different_network_is_refused_with_what_to_do(values: dict, hint: str) -> None:
    facts = {name: Fact(value, "x.pt") for name, value in values.items()}
    with pytest.raises(CheckpointError) as raised:
        check_network(facts, get_config("clip_vit_b32"), "clip_vit_b32")
    message = f"x.pt describes a different network than clip_vit_b32: patch_size is {values['patch_size']}, not 32."
    assert str(raised.value).startswith(f"{message} {hint}")
