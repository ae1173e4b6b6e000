"""Pairs to batches: decoded, preprocessed, tokenised, in an order that the seed alone decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ..config import CLIPConfig
from ..evaluation.pairs import Pair
from ..preprocess import pixel_values
from ..tokenizer import default_tokenizer
from ..video.limits import Limits
from ..video.reader import read_frames


class Batch(NamedTuple):
    """What :meth:`VideoTextModel.forward` takes: see there."""

    ids: Tensor
    pixels: Tensor
    counts: Tensor


class VideoTextDataset(Dataset):
    """Pairs of a video file and a sentence, ready for the model.

    An index is that of a pair, or ``(index, epoch)``: of each of ``frames`` equal parts of a video one frame is taken,
    another one in every epoch. With a plain index, frames are spread evenly, as in an evaluation.

    Args:
        pairs: from :func:`clip4clip.evaluation.pairs.read_pairs`.
        config: shape of the model that is trained.
        frames: how many of each video.
        max_words: how many token ids a sentence may have, start and end marks included.
        seed: decides on the frames.
    """

    def __init__(
        self, pairs: Sequence[Pair], config: CLIPConfig, frames: int = 12, max_words: int = 32, seed: int = 0
    ) -> None:
        self.pairs = pairs
        self.config = config
        self.frames = frames
        self.max_words = min(max_words, config.context_length)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[list[int], Tensor]:
        """Token ids and (frames, 3, H, W) pixels.

        Raises:
            VideoNotFoundError, VideoError: when the video cannot be decoded.
        """
        index, epoch = item if isinstance(item, tuple) else (item, None)
        pair = self.pairs[index]

        def choose(count: int) -> list[int]:
            if epoch is None:
                return np.linspace(0, count - 1, self.frames).astype(int).tolist()
            edges = np.linspace(0, count, self.frames + 1)
            offsets = np.random.default_rng([self.seed, epoch, index]).random(self.frames)
            return np.minimum(edges[:-1] + offsets * np.diff(edges), count - 1).astype(int).tolist()

        limits = Limits(threads=1)  # other workers need the other cores
        frames = list(read_frames(pair.path, indices=choose, limits=limits))
        ids = default_tokenizer(self.config.vocab_size).encode(pair.sentence, self.max_words)
        return ids, torch.from_numpy(pixel_values(frames, self.config.resolution))


def collate(samples: Sequence[tuple[list[int], Tensor]]) -> Batch:
    """Samples to one batch: captions padded to the longest, frames one after the other."""
    ids = torch.zeros(len(samples), max(len(ids) for ids, _ in samples), dtype=torch.int64)
    for row, (sample, _) in zip(ids, samples, strict=True):
        row[: len(sample)] = torch.tensor(sample)
    pixels = [frames for _, frames in samples]
    return Batch(ids, torch.cat(pixels), torch.tensor([len(frames) for frames in pixels]))


class Batches(Sampler[list[tuple[int, int]]]):
    """Which pairs make which batch: a shuffle of each epoch, the same on every machine and after every restart.

    The last batch of an epoch is left out when it is not full, as in the paper's code: a contrastive loss depends on
    the number of its negatives.

    Args:
        length: number of pairs.
        batch_size: over all processes.
        seed: decides on the order.
        rank: this process, which gets its equal part of every batch.
        world: number of processes; divides ``batch_size``.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world = rank, world
        self.epoch = self.start = 0

    def begin_at(self, epoch: int, start: int) -> None:
        """The next iteration is over the batches of ``epoch`` from the one with number ``start`` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length).tolist()
        share = self.batch_size // self.world
        for batch in range(self.start, len(self)):
            first = batch * self.batch_size + self.rank * share
            yield [(index, self.epoch) for index in order[first : first + share]]
