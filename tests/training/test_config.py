"""Settings out of their range."""

from __future__ import annotations

import pytest

from clip4clip import InputValueError, UnknownNameError
from clip4clip.training import TrainingConfig


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"epochs": 0}, InputValueError, "epochs must be at least 1"),
        ({"seed": -1}, InputValueError, "seed must be from 0"),
        ({"workers": -1}, InputValueError, "workers must be at least 0"),
        ({"lr": float("nan")}, InputValueError, "lr must be a number from 0 to 1"),
        ({"lr": 1e38}, InputValueError, r"lr must be a number from 0 to 1, not 1e\+38"),
        ({"weight_decay": 1e300}, InputValueError, "weight_decay must be a number from 0 to 1"),
        ({"warmup": 1.0}, InputValueError, "warmup must be a number from 0 to 1"),
        ({"max_words": 2}, InputValueError, "max_words must be at least 3"),
        ({"precision": "int8"}, UnknownNameError, "unknown precision 'int8'.*float32, bfloat16, float16"),
        ({"save_dtype": "float64"}, UnknownNameError, "unknown save_dtype 'float64'.*float32, float16"),
        ({"save_dtype": None}, UnknownNameError, "unknown save_dtype None"),
    ],
)
def test_settings_out_of_range_are_rejected(settings: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        TrainingConfig("pairs.csv", "videos", "run", **settings)
