"""The model in training: pooling, and the initialisation of heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import MINI

from clip4clip import TrainingError, UnknownNameError
from clip4clip.config import MODELS, Model
from clip4clip.model import MeanPooling, SequenceLSTM, SequenceTransformer
from clip4clip.training import VideoTextModel, contrastive_loss
from clip4clip.training.data import Batch
from clip4clip.weights.identity import find_checkpoint

GELU = replace(MINI, activation="gelu")


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 128}, "vectors of 128 numbers: text_width is 64, not 128, text_mlp_width is 256, not 512"),
        ({"text_head_width": 32}, "text_head_width is 32, not 64.*meanP or seqLSTM"),
        ({"text_mlp_width": 64}, "text_mlp_width is 64, not 256"),
    ],
)
def test_a_seqtransf_head_is_not_initialised_with_layers_of_another_shape(
    changes: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "other", Model(replace(MINI, **changes)))
    with pytest.raises(TrainingError, match=message):
        VideoTextModel.untrained("other", "seqTransf")
    assert VideoTextModel.untrained("other", "seqLSTM").head_name == "seqLSTM"


def test_a_perception_encoder_trains_its_pool_and_every_head(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(MINI, vision_head_width=16, activation="gelu", pooling="attention", rotary=True, context_length=32)
    monkeypatch.setitem(MODELS, "perception", Model(config))
    model = VideoTextModel.untrained("perception", "seqTransf")
    assert model.head.max_frames == 32
    model.freeze_below(1)
    model.recompute_activations()
    contrastive_loss(*model(torch.randint(0, 1024, (2, 5)), torch.randn(4, 3, 32, 32), torch.tensor([2, 2]))).backward()
    trained = {name for name, tensor in model.named_tensors() if tensor.grad is not None}
    assert all((name in trained) == tensor.requires_grad for name, tensor in model.named_tensors())
    assert {"visual.attn_pool.probe", "visual.attn_pool.mlp.c_fc.weight", "visual.proj", "text_projection"} <= trained
    assert {"visual.transformer.resblocks.1.attn.in_proj_weight", "logit_scale"} <= trained
    assert not {"visual.transformer.resblocks.0.ln_1.weight", "visual.conv1.weight", "positional_embedding"} & trained


def test_only_networks_that_clip4clip_computes_have_its_names() -> None:
    names = {config: {name for name, _ in VideoTextModel(config).named_tensors()} for config in (MINI, GELU)}
    assert all(name.startswith("clip.") for name in names[MINI])
    assert names[GELU] == {name.removeprefix("clip.") for name in names[MINI]}


def test_an_unknown_head_is_rejected_with_the_names_of_the_heads(mini_checkpoint: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown head 'maxP'.*meanP, seqLSTM, seqTransf"):
        VideoTextModel.load(find_checkpoint(mini_checkpoint, "mini"), "maxP")
