"""Turn pairs into batches: decoded, preprocessed and tokenised, in an order that depends only on the seed."""

from __future__ import annotations

import functools
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
    """The arguments of :meth:`clip4clip.training.VideoTextModel.forward`, which gives their shapes."""

    ids: Tensor
    pixels: Tensor
    counts: Tensor


class VideoTextDataset(Dataset):
    """Pairs of a video file and a sentence, as pixel values and token ids.

    An item is selected by the index of a pair, or by ``(index, epoch)``. With an epoch, the video is cut into
    ``frames`` equal parts, and from each part one frame is drawn at random, a different one in every epoch. Without an
    epoch, the frames are evenly spaced, as in an evaluation.

    Args:
        pairs: pairs from :func:`clip4clip.evaluation.pairs.read_pairs`.
        config: shape of the model to train.
        frames: number of frames of each video.
        max_words: largest number of token ids of a sentence, start and end marks included.
        seed: seed of the frames.
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
        """Return token ids, and pixel values of shape (frames, 3, H, W).

        Raises:
            VideoNotFoundError, VideoError: the video cannot be decoded.
        """
        index, epoch = item if isinstance(item, tuple) else (item, None)
        pair = self.pairs[index]

        draw = None if epoch is None else functools.partial(self._draw_frames, index, epoch)
        # One thread: the other decoding processes need the other cores.
        frames = list(read_frames(pair.path, self.frames, indices=draw, limits=Limits(threads=1)))
        ids = default_tokenizer(self.config.vocab_size).encode(pair.sentence, self.max_words)
        return ids, torch.from_numpy(pixel_values(frames, self.config.resolution, self.config.image))

    def _draw_frames(self, index: int, epoch: int, count: int) -> list[int]:
        """Draw one frame from each of ``self.frames`` equal parts of a video; always the same ones in an epoch."""
        edges = np.linspace(0, count, self.frames + 1)
        offsets = np.random.default_rng([self.seed, epoch, index]).random(self.frames)
        return np.minimum(edges[:-1] + offsets * np.diff(edges), count - 1).astype(int).tolist()


def collate(samples: Sequence[tuple[list[int], Tensor]]) -> Batch:
    """Join samples into one batch: token ids padded to the longest sentence, frames one after the other."""
    ids = torch.zeros(len(samples), max(len(ids) for ids, _ in samples), dtype=torch.int64)
    for row, (sample, _) in zip(ids, samples, strict=True):
        row[: len(sample)] = torch.tensor(sample)
    pixels = [frames for _, frames in samples]
    return Batch(ids, torch.cat(pixels), torch.tensor([len(frames) for frames in pixels]))


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """The pairs of each batch: shuffled in every epoch, in the same order on every machine and after every restart.

    The last batch of an epoch is left out when it is not full, as in the paper's code: a contrastive loss depends on
    the number of its negatives.

    Args:
        length: number of pairs.
        batch_size: number of pairs in a batch, over all processes.
        seed: seed of the order.
        rank: number of this process, from 0. Every process gets an equal share of each batch.
        process_count: number of processes, a divisor of ``batch_size``.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, process_count: int = 1) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.process_count = rank, process_count
        self.epoch = self.first_batch = 0

    def begin_at(self, epoch: int, first_batch: int) -> None:
        """Let the next iteration start with batch number ``first_batch`` of an epoch."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length).tolist()
        share = self.batch_size // self.process_count
        for batch in range(self.first_batch, len(self)):
            first = batch * self.batch_size + self.rank * share
            yield [(index, self.epoch) for index in order[first : first + share]]
