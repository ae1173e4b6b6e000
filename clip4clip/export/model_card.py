"""The README.md of an exported folder: the model card that the Hugging Face hub shows."""

from __future__ import annotations

from collections.abc import Sequence

from ..weights.metadata import Metadata

_TEMPLATE = """---
library_name: {library}
pipeline_tag: zero-shot-image-classification
tags:
- clip
- clip4clip
- video-text-retrieval
---
# {name}

A CLIP for text-to-video retrieval, exported by towhee-clip4clip {version}. Texts and frames are embedded in one vector
space of {dimensions} dimensions.

```python
{code}```

The vector of a video is the mean of the normalised vectors of its frames, for example 12 evenly spaced ones, normalised
again. Videos are ranked for a sentence by the dot product with its normalised vector.
"""

# How the card names the settings of a training run. A name that is missing here is shown without its underscores.
_LABELS = {
    "batch_size": "pairs in a step",
    "freeze_layers": "frozen layers of each tower (-1: none)",
    "frames": "frames of a video",
    "init": "started from",
    "init_fingerprint": "fingerprint of the checkpoint it started from",
    "lr": "learning rate",
    "max_grad_norm": "largest norm of the gradient",
    "max_words": "token ids of a sentence, at most",
    "new_lr": "learning rate of the head",
    "pairs": "training pairs",
    "recall_at_1": "text→video R@1 (%)",
    "recipe": "trained by",
    "warmup": "warm-up, as a fraction of all steps",
}


def model_card(metadata: Metadata, library: str, code: str, notes: Sequence[str]) -> str:
    """Return the content of the file.

    Args:
        metadata: what is known about the checkpoint.
        library: the library that loads the folder.
        code: Python code that loads it.
        notes: what the folder does not have.
    """
    name, size, version = metadata.model_name, metadata.config.embed_dim, metadata.version
    card = _TEMPLATE.format(library=library, name=name, version=version, dimensions=size, code=code)
    card += "".join(f"\n{note}\n" for note in notes)
    if metadata.settings:
        values = {**metadata.settings, "steps": metadata.step, "recall_at_1": metadata.recall_at_1}
        lines = [f"| {_label(key)} | {value} |\n" for key, value in values.items() if value is not None]
        card += "\n## Training\n\n| setting | value |\n| --- | --- |\n" + "".join(lines)
    return card


def _label(setting: str) -> str:
    return _LABELS.get(setting, setting.replace("_", " "))
