"""Training: pairs of a video and a sentence in, a fine-tuned checkpoint out.

In a script, as processes that decode may read it again:

>>> from clip4clip.training import TrainingConfig, train
>>> if __name__ == "__main__":
...     result = train(TrainingConfig(pairs="train.csv", videos="videos", out="run"))
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .data import VideoTextDataset as VideoTextDataset
    from .model import VideoTextModel as VideoTextModel
    from .model import contrastive_loss as contrastive_loss
    from .trainer import TrainingConfig as TrainingConfig
    from .trainer import TrainingResult as TrainingResult
    from .trainer import train as train

_HOMES = {
    "TrainingConfig": "trainer",
    "TrainingResult": "trainer",
    "VideoTextDataset": "data",
    "VideoTextModel": "model",
    "contrastive_loss": "model",
    "train": "trainer",
}

__all__ = ["TrainingConfig", "TrainingResult", "VideoTextDataset", "VideoTextModel", "contrastive_loss", "train"]


def __getattr__(name: str) -> object:
    # Not at once: the processes that draw synthetic clips have no use for torch.
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
