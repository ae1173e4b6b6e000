"""Fine-tune a model on pairs of a video and a sentence.

A script needs the guard below, because the processes that decode videos may import the script again:

>>> from clip4clip.training import TrainingConfig, train
>>> if __name__ == "__main__":
...     result = train(TrainingConfig(pairs="train.csv", videos="videos", out="run"))
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import TrainingConfig as TrainingConfig
    from .data import VideoTextDataset as VideoTextDataset
    from .loss import contrastive_loss as contrastive_loss
    from .model import VideoTextModel as VideoTextModel
    from .trainer import TrainingResult as TrainingResult
    from .trainer import train as train

_MODULES = {
    "TrainingConfig": "config",
    "TrainingResult": "trainer",
    "VideoTextDataset": "data",
    "VideoTextModel": "model",
    "contrastive_loss": "loss",
    "train": "trainer",
}

__all__ = ["TrainingConfig", "TrainingResult", "VideoTextDataset", "VideoTextModel", "contrastive_loss", "train"]


def __getattr__(name: str) -> object:
    # Imported on use: the processes that draw synthetic clips do not need torch.
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
