"""The model in training: pooling, and the initialisation of heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clip4clip import UnknownNameError
from clip4clip.model import MeanPooling, SequenceLSTM, SequenceTransformer
from clip4clip.training import VideoTextModel
from clip4clip.training.data import Batch
from clip4clip.weights.identity import find_checkpoint


def test_videos_of_different_lengths_are_pooled_separately(mini_checkpoint: Path, batch: Batch) -> None:
    model = VideoTextModel.load(find_checkpoint(mini_checkpoint, "mini"), "seqTransf").eval()
    counts = torch.tensor([2, 1, 3])
    with torch.inference_mode():
        _, together, _ = model(batch.ids[:3], batch.pixels[:6], counts)
        separate = [
            model(batch.ids[:1], pixels, torch.tensor([len(pixels)]))[1][0]
            for pixels in batch.pixels[:6].split(counts.tolist())
        ]
    torch.testing.assert_close(together, torch.stack(separate), atol=1e-5, rtol=0)


def test_heads_are_initialised_as_in_the_paper(mini_checkpoint: Path) -> None:
    assert isinstance(VideoTextModel.load(find_checkpoint(mini_checkpoint, "mini")).head, MeanPooling)
    assert isinstance(VideoTextModel.load(find_checkpoint(mini_checkpoint, "mini"), "seqLSTM").head, SequenceLSTM)
    model = VideoTextModel.load(find_checkpoint(mini_checkpoint, "mini"), "seqTransf")
    head = model.head
    assert isinstance(head, SequenceTransformer)
    torch.testing.assert_close(head.frame_position_embeddings.weight, model.text.positional_embedding)
    assert len(head.transformerClip.resblocks) == 2  # four, but this text transformer has only two
    for block, text_block in zip(head.transformerClip.resblocks, model.text.transformer.resblocks, strict=False):
        for name, tensor in block.state_dict().items():
            torch.testing.assert_close(tensor, text_block.state_dict()[name])
    # A copy: both are trained independently.
    assert head.frame_position_embeddings.weight.data_ptr() != model.text.positional_embedding.data_ptr()


def test_an_unknown_head_is_rejected_with_the_names_of_the_heads(mini_checkpoint: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown head 'maxP'.*meanP, seqLSTM, seqTransf"):
        VideoTextModel.load(find_checkpoint(mini_checkpoint, "mini"), "maxP")
