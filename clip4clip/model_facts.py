"""What is published about the models of this package: licence, training and quality.

``clip4clip models`` and docs/models.md show it. Nothing here changes how a model is loaded: see
:mod:`clip4clip.config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ModelFacts:
    """What is published about a model. None and an empty string mean that nothing is.

    All figures are zero-shot: the model was not trained on the data set. They are percentages.

    Attributes:
        network: its usual name.
        parameters: number of parameters of both towers, in millions.
        megabytes: size of the download.
        licence: of the weights, as their page on the hub states it.
        training: what it was trained on.
        msrvtt_r1: MSR-VTT 1k-A, text to video: sentences whose video is found first.
        coco_r1: MS COCO (5,000 images), text to image: sentences whose image is found first.
        coco_r5: the same, among the first five.
        flickr_r1: Flickr30k (1,000 images), text to image: sentences whose image is found first.
        imagenet: ImageNet-1k: images classified correctly.
        sources: where the figures are published.
        note: what else to know.
        unverified: which of the facts could not be checked at their source.
    """

    network: str
    parameters: float
    megabytes: int
    licence: str
    training: str
    msrvtt_r1: float | None = None
    coco_r1: float | None = None
    coco_r5: float | None = None
    flickr_r1: float | None = None
    imagenet: float | None = None
    sources: tuple[str, ...] = ()
    note: str = ""
    unverified: str = ""


OPEN_CLIP = "https://github.com/mlfoundations/open_clip/blob/main/docs/openclip_retrieval_results.csv"
OPEN_CLIP_IMAGENET = "https://github.com/mlfoundations/open_clip/blob/main/docs/openclip_results.csv"
_WEB_400M = "400 million images with texts from the web (arXiv 2103.00020); the data set is not public"
_LAION_2B = "LAION-2B, the English part of LAION-5B (arXiv 2210.08402); 34 billion samples seen"
_DATACOMP = "DataComp-1B (arXiv 2304.14108); 13 billion samples seen"
_REVISION = "The revision was taken from public projects that quote it, not from the hub."
_REVISION_OF_ONE = "The revision was taken from the only public project found that quotes it, not from the hub."

_B32 = ModelFacts("ViT-B/32", 151.3, 605, "Apache-2.0", _WEB_400M, sources=(OPEN_CLIP, OPEN_CLIP_IMAGENET))
_B16 = replace(_B32, network="ViT-B/16", parameters=149.6, megabytes=599)
_L14 = replace(_B32, network="ViT-L/14", parameters=427.6, megabytes=1711, unverified=_REVISION)

# For each model that comes with this package, in the order of clip4clip.config.MODELS.
FACTS: Mapping[str, ModelFacts] = {
    "clip_vit_b32": replace(
        _B32,
        msrvtt_r1=31.2,
        coco_r1=30.4,
        coco_r5=55.9,
        flickr_r1=58.8,
        imagenet=63.3,
        sources=(*_B32.sources, "https://arxiv.org/abs/2102.12443"),
        note="CLIP4Clip (arXiv 2104.08860) publishes 30.6 for MSR-VTT with twelve frames, and 43.1 after fine-tuning.",
    ),
    "clip_vit_b16": replace(_B16, coco_r1=33.1, coco_r5=58.4, flickr_r1=62.2, imagenet=68.3),
    "clip_vit_l14": replace(_L14, coco_r1=36.5, coco_r5=61.1, flickr_r1=65.0, imagenet=75.5),
    "clip_vit_l14_336": replace(
        _L14,
        network="ViT-L/14@336",
        parameters=427.9,
        megabytes=1712,
        coco_r1=37.1,
        coco_r5=61.6,
        flickr_r1=66.9,
        imagenet=76.6,
    ),
    "clip_vit_b32_laion2b": replace(
        _B32,
        licence="MIT",
        training=_LAION_2B,
        coco_r1=39.3,
        coco_r5=65.4,
        flickr_r1=66.8,
        imagenet=66.6,
        unverified=_REVISION,
    ),
    "clip_vit_b32_datacomp": replace(
        _B32,
        licence="MIT",
        training=_DATACOMP,
        coco_r1=37.1,
        coco_r5=62.4,
        flickr_r1=61.1,
        imagenet=69.2,
        unverified=_REVISION,
    ),
    "clip_vit_b16_datacomp": replace(
        _B16,
        licence="MIT",
        training=_DATACOMP,
        coco_r1=40.2,
        coco_r5=66.0,
        flickr_r1=67.6,
        imagenet=73.5,
        unverified=_REVISION,
    ),
    "clip_vit_l14_datacomp": replace(
        _L14, licence="MIT", training=_DATACOMP, coco_r1=45.7, coco_r5=70.0, flickr_r1=73.4, imagenet=79.2
    ),
    "clip4clip_webvid150k": ModelFacts(
        "ViT-B/32",
        151.3,
        605,
        "",
        "clip_vit_b32, then 150,000 videos of WebVid with mean pooling (arXiv 2104.08860)",
        sources=("https://huggingface.co/Searchium-ai/clip4clip-webvid150k",),
        note="Published for 10,000 other videos of WebVid: R@1 50.7, where clip_vit_b32 has 37.2.",
    ),
    "pe_core_b16": ModelFacts(
        "PE-Core-B/16",
        447.7,
        1791,
        "Apache-2.0",
        "5.4 billion images with texts, then 22 million videos (arXiv 2504.13181)",
        msrvtt_r1=47.6,
        coco_r1=50.9,
        flickr_r1=80.8,
        imagenet=78.4,
        sources=("https://arxiv.org/abs/2504.13181",),
        note="The figure for MSR-VTT is that of eight frames. Sentences are cut at 32 tokens.",
        unverified=_REVISION_OF_ONE,
    ),
    "clip_vit_b32_multilingual": ModelFacts(
        "DistilBERT",
        135.1,
        541,
        "Apache-2.0",
        "sentences in over 50 languages, to return the vectors of clip_vit_b32 for the English ones (arXiv 2004.09813)",
        sources=("https://huggingface.co/sentence-transformers/clip-ViT-B-32-multilingual-v1",),
        note="A text tower for clip_vit_b32. Needs the extra multilingual.",
        unverified=_REVISION,
    ),
    "clip_vit_b32_mclip": ModelFacts(
        "XLM-R-Large",
        560.4,
        2240,
        "",
        "7 million captions in 48 languages, to return the vectors of clip_vit_b32 for the English ones",
        sources=("https://github.com/FreddeFrallan/Multilingual-CLIP/blob/main/larger_mclip.md",),
        note="A text tower for clip_vit_b32. Needs the extra multilingual. Published for MS COCO with translated "
        "captions, R@10: English 91.8 (clip_vit_b32: 90.3), German 88.7, Spanish 89.1, French 89.4, Chinese 89.3.",
        unverified=_REVISION_OF_ONE,
    ),
    "clip_vit_tiny_demo": ModelFacts(
        "ViT/16@64",
        3.6,
        7,
        "Apache-2.0",
        "drawings that this package makes",
        note="For trials without a download. It knows nothing but drawings (docs/demo_model.md).",
    ),
}
