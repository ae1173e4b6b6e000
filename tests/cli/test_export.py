"""The command ``export``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from constants import DEMO_MODEL
from fine_tuned import OPENAI, fine_tune

from clip4clip.weights.identity import find_checkpoint


def test_a_checkpoint_is_exported_without_the_name_of_its_model(
    run_main: Callable[..., tuple[int, str, str]], random_state: Callable, tmp_path: Path
) -> None:
    path, folder = fine_tune(OPENAI, tmp_path / "tuned.safetensors", random_state, "seqLSTM"), tmp_path / "out"
    arguments = ["export", path, "--to", "open_clip", "-o", folder, "--dtype", "bfloat16"]
    code, _, errors = run_main(*arguments)
    assert code == 2
    assert "--drop-head" in errors
    code, printed, errors = run_main(*arguments, "--drop-head")
    assert code == 0, errors
    assert "note: The seqLSTM head stays behind" in errors
    assert f"wrote vit_128x2_patch16_32_quick_gelu, bfloat16, as 3 files in {folder}. Load it with:" in errors
    assert printed.splitlines()[-2:] == [
        f"model, _, preprocess = open_clip.create_model_and_transforms({'local-dir:' + str(folder)!r})",
        f"tokenizer = open_clip.get_tokenizer({'local-dir:' + str(folder)!r})",
    ]
    assert find_checkpoint(folder).config == OPENAI


def test_default_weights_are_exported_by_the_name_of_their_model(
    run_main: Callable[..., tuple[int, str, str]], error_of: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    code, printed, _ = run_main("export", "-m", DEMO_MODEL, "--to", "transformers", "-o", folder)
    assert code == 0
    assert f"CLIPModel.from_pretrained({str(folder)!r})" in printed
    assert find_checkpoint(folder).fingerprint == find_checkpoint(None, DEMO_MODEL).fingerprint
    assert "out is not empty" in error_of("export", "-m", DEMO_MODEL, "--to", "transformers", "-o", folder)
    assert run_main("export", "-m", DEMO_MODEL, "--to", "transformers", "-o", folder, "--force")[0] == 0
    assert "name a checkpoint" in error_of("export", "--to", "transformers", "-o", folder)
