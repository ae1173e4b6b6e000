"""What an export needs to know about the library that is to load it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..config import CLIPConfig


@dataclass(frozen=True)
class Target:
    """How another library stores a CLIP.

    Attributes:
        weights: name of the file of the weights.
        find_obstacles: returns what a network has that the library does not have, each as a phrase.
        files: returns the name and the content of each other file of the folder, for a network and a number format.
        rename: returns the tensors of a network under the names of the library.
        code: returns the Python code that loads a folder.
    """

    weights: str
    find_obstacles: Callable[[CLIPConfig], list[str]]
    files: Callable[[CLIPConfig, str], dict[str, str]]
    rename: Callable[[CLIPConfig, Mapping[str, Tensor]], Mapping[str, Tensor]]
    code: Callable[[str], str]
