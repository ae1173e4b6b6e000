"""Configure models in a repository of NVIDIA's Triton server."""

from __future__ import annotations

import re
from pathlib import Path


def set_max_batch_size(model: Path, size: int) -> None:
    """Have Triton accept batches up to a size, if a model file is in a model repository.

    In a repository the file is ``<name>/<version>/model.onnx``. Towhee writes ``<name>/config.pbtxt`` before it asks
    for the model. If the pipeline sets no ``max_batch_size``, neither does this file, and Triton's default is 4: it
    would reject the twelve frames of a video. A ``max_batch_size`` that is already set is not changed.

    Args:
        model: the model file.
        size: the most rows that Triton puts into one batch.

    Raises:
        OSError: the configuration cannot be read or written.
    """
    config = model.absolute().parent.parent / "config.pbtxt"
    if not (model.parent.name.isdecimal() and config.is_file()):
        return
    text = config.read_text("utf-8")
    if "max_batch_size" not in text:
        config.write_text(re.sub(r"^backend:.*\n", rf"\g<0>max_batch_size: {size}\n", text, flags=re.M), "utf-8")
