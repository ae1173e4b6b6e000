"""Training data: the frames of each epoch, and the order of the batches."""

from __future__ import annotations

from pathlib import Path

import torch
from training_runs import MINI

from clip4clip.evaluation.pairs import read_pairs
from clip4clip.preprocess import pixel_values
from clip4clip.training import VideoTextDataset
from clip4clip.training.data import EpochBatchSampler
from clip4clip.video import read_frames


def test_each_epoch_draws_other_frames_and_the_same_ones_when_repeated(drawings: Path) -> None:
    pairs = read_pairs(drawings / "train.csv", drawings)
    moving = next(index for index, pair in enumerate(pairs) if "moving in a circle" in pair.sentence)
    first, again = (VideoTextDataset(pairs, MINI, 3, seed=1) for _ in range(2))
    epochs = [first[moving, epoch][1] for epoch in range(4)]
    assert any(not torch.equal(epochs[0], other) for other in epochs[1:])
    assert torch.equal(epochs[2], again[moving, 2][1])


def test_without_an_epoch_frames_are_spread_evenly(drawings: Path) -> None:
    pairs = read_pairs(drawings / "eval.csv", drawings)
    even = list(read_frames(pairs[0].path, 3))
    expected = torch.from_numpy(pixel_values(even, MINI.resolution))
    torch.testing.assert_close(VideoTextDataset(pairs, MINI, 3)[0][1], expected)


def test_every_epoch_has_every_pair_once_and_processes_share_each_batch() -> None:
    whole, parts = EpochBatchSampler(50, 8, 7), [EpochBatchSampler(50, 8, 7, rank, 2) for rank in range(2)]
    for sampler in (whole, *parts):
        sampler.begin_at(3, 0)
    batches = list(whole)
    assert len(batches) == len(whole) == 6
    indices = [index for batch in batches for index, epoch in batch if epoch == 3]
    assert len(set(indices)) == len(indices) == 48
    assert [first + second for first, second in zip(*parts, strict=True)] == batches


def test_an_epoch_can_be_continued_at_any_batch_and_the_next_has_another_order() -> None:
    sampler = EpochBatchSampler(50, 8, 7)
    batches = list(sampler)
    sampler.begin_at(0, 4)
    assert list(sampler) == batches[4:]
    sampler.begin_at(1, 0)
    assert next(iter(sampler)) != batches[0]
