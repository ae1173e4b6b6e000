"""How often `probably not here` is right, with the demo model and drawn clips.

    python benchmarks/calibration.py [--clips 700] [--libraries 20 100 400] [--draws 3]

Libraries are random choices of drawn clips of combinations that the model was not trained on. Sentences that are in a
library describe one of its clips; sentences that are not describe a clip that was left out, a clip of the library with
one attribute changed such that no clip shows it, or something that was never drawn. Prints the tables of
docs/search.md: how often the calibration of an index is right about each kind of sentence, and the area under the ROC
curve of its score and of others that were considered.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip4clip import TextEncoder, VideoEncoder
from clip4clip.encoder import EncoderSpec
from clip4clip.index.calibration import read_captions
from clip4clip.retrieval import VideoIndex
from clip4clip.training.drawing import draw
from clip4clip.training.scenes import (
    BACKGROUNDS,
    COLOURS,
    PARAPHRASES,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    describe,
    scenes,
)

MODEL = "clip_vit_tiny_demo"
FRAMES = np.linspace(0, 15, 12).round().astype(int)  # of a clip of 16
CHANGES = {
    "shape": [*SHAPES],
    "colour": [*COLOURS],
    "background": [*BACKGROUNDS],
    "size": [*SIZES],
    "texture": TEXTURES,
}
PRESENT = ("caption", "paraphrase")
ABSENT = ("one attribute changed", "clip left out", "never drawn")
SEED = 1  # of the clips: the threshold was chosen on those of seed 0
BETA = 20  # inverse temperature of QB-Norm

# None of them is in the bank of captions.
NEVER_DRAWN = """
a dog jumps into the water; kids feeding a horse; a wedding dance in a garden; someone cuts a watermelon
a man plays the trumpet; a plane lands in heavy fog; the president gives a speech; two girls ride a tandem
a chef decorates a cake with cream; a goal in the last minute; a woman walks her dog in the snow; a cat falls off a sofa
a boy plays the piano badly; an interview with an actor; how to change a tyre; a tiger in a zoo
the inside of a submarine; people protest in front of a parliament; a baby laughs at a paper bag; a rabbit eats a carrot
a train passes a level crossing; a man shaves his beard; a volcano erupts at night; a drone flies through a forest
making sushi at home; cleaning the windows of a tower block; a concert of a rock band; a turtle lays eggs on a beach
a bus driver talks to a passenger; a girl does a handstand; the launch of a space shuttle; a tutorial about make-up
an elderly couple feeds pigeons; someone repairs a bicycle; a weather forecast with a map; a street in Tokyo at night
a spoon stirs tea; a thief climbs through a window; a cartoon about a mouse; a trailer of a horror film
breaking news about an earthquake; a marathon in a big city; a goat climbs a tree; a man builds a wooden boat
an unboxing of headphones; a tour of an old farmhouse; a classroom full of pupils; a hot air balloon over the desert
planting tomatoes in a greenhouse; a referee shows a card
"""


@dataclasses.dataclass
class Clips:
    """Drawn clips and their sentences.

    Attributes:
        scenes: what each of the n clips shows.
        vectors: their vectors, float32 of shape (n, 128).
        changed: each scene with one attribute changed.
        sentences: vectors of the sentences of each kind, float32 of shape (n, 128), or of another length for those that
            were never drawn.
        bank: vectors of the captions that the package ships.
    """

    scenes: list[Scene]
    vectors: np.ndarray
    changed: list[Scene]
    sentences: dict[str, np.ndarray]
    bank: np.ndarray


def make_clips(count: int) -> Clips:
    video, text = VideoEncoder.load(MODEL, device="cpu"), TextEncoder.load(MODEL, device="cpu")
    shown: list[Scene] = []
    vectors, captions, paraphrases = [], [], []
    for scene, random in scenes(count, SEED, held_out=True):
        captions.append(describe(scene, random))
        paraphrases.append(describe(scene, random, PARAPHRASES))
        vectors.append(video([*draw(scene, random)[FRAMES]]))
        shown.append(scene)
    random = np.random.default_rng(1)
    changed = [change(scene, random) for scene in shown]
    sentences = {
        "caption": captions,
        "paraphrase": paraphrases,
        "one attribute changed": [describe(scene, random) for scene in changed],
        "clip left out": captions,
        "never drawn": [sentence.strip() for line in NEVER_DRAWN.strip().splitlines() for sentence in line.split(";")],
    }
    embedded = {kind: text(texts) for kind, texts in sentences.items()}
    return Clips(shown, np.stack(vectors), changed, embedded, text(read_captions()))


def change(scene: Scene, random: np.random.Generator) -> Scene:
    """Return a scene with another value of one attribute, of those that the model hardly confuses."""
    name = str(random.choice([*CHANGES]))
    values = [value for value in CHANGES[name] if value != getattr(scene, name)]
    return dataclasses.replace(scene, **{name: values[int(random.integers(len(values)))]})


def choose(clips: Clips, size: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the clips of a random library, int64 of shape (size,), and the vectors of the sentences of each kind."""
    order = np.random.default_rng(seed).permutation(len(clips.scenes))
    library, left_out = order[:size], order[size:]
    shown = {clips.scenes[number] for number in library}
    new = [number for number in library if clips.changed[number] not in shown]
    numbers = {"caption": library, "paraphrase": library, "one attribute changed": new, "clip left out": left_out}
    return library, {
        kind: vectors[numbers[kind]] if kind in numbers else vectors for kind, vectors in clips.sentences.items()
    }


def measure_threshold(clips: Clips, size: int, seed: int) -> tuple[float, dict[str, float]]:
    """Return the threshold of an index, and the share of sentences of each kind that it is right about."""
    library, sentences = choose(clips, size, seed)
    encoder = EncoderSpec(MODEL, device="cpu")
    model = encoder.identify()
    rows = [
        {"id": str(number), "path": f"/{number}.mp4", "vector": clips.vectors[number]}
        | {"model": model.model, "fingerprint": model.fingerprint}
        for number in library
    ]
    with tempfile.TemporaryDirectory() as folder, VideoIndex(Path(folder, "videos.db"), encoder=encoder) as index:
        index.add(rows)
        calibration = index.calibration()
    assert calibration is not None
    best = {kind: (vectors @ clips.vectors[library].T).max(axis=1) for kind, vectors in sentences.items()}
    found = {kind: np.mean([calibration.probably_here(score) for score in scores]) for kind, scores in best.items()}
    return calibration.threshold, {kind: float(found[kind] if kind in PRESENT else 1 - found[kind]) for kind in found}


def scores_considered(similarities: np.ndarray, bank: np.ndarray) -> dict[str, np.ndarray]:
    """Return scores of sentences, higher for those that are in a library.

    Args:
        similarities: of n sentences and the clips of the library, (n, clips).
        bank: of the captions of the bank and these clips, (captions, clips).
    """
    best = similarities.max(axis=1)
    normaliser = np.log(np.exp(BETA * bank).mean(axis=0)) / BETA  # of each clip
    ordered = np.sort(similarities, axis=1)
    return {
        "best score (what is used)": best,
        "best score, normalised by QB-Norm": (similarities - normaliser).max(axis=1),
        "best score, less that of the captions for this clip": best - bank.max(axis=0)[similarities.argmax(axis=1)],
        "best score, less the mean of the ten best": best - ordered[:, -10:].mean(axis=1),
        "best score, in standard deviations of all": (best - similarities.mean(axis=1)) / similarities.std(axis=1),
    }


def roc_auc(present: np.ndarray, absent: np.ndarray) -> float:
    """Return how often a score of a present sentence is above that of an absent one; equal ones count half."""
    below = np.searchsorted(np.sort(absent), present, "left")
    not_above = np.searchsorted(np.sort(absent), present, "right")
    return float((below + not_above).mean() / (2 * len(absent)))


def measure_auc(clips: Clips, size: int, seed: int) -> dict[str, list[float]]:
    """Return the area under the ROC curve of each score, for each kind of absent sentence."""
    library, sentences = choose(clips, size, seed)
    bank = clips.bank @ clips.vectors[library].T
    scores = {kind: scores_considered(vectors @ clips.vectors[library].T, bank) for kind, vectors in sentences.items()}
    return {
        name: [roc_auc(np.concatenate([scores[kind][name] for kind in PRESENT]), scores[kind][name]) for kind in ABSENT]
        for name in scores["caption"]
    }


def print_row(*cells: Any) -> None:
    print(f"| {' | '.join(map(str, cells))} |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=700, help="clips that are drawn")
    parser.add_argument(
        "--libraries", type=int, nargs="+", default=[20, 100, 400], help="numbers of clips in a library"
    )
    parser.add_argument("--draws", type=int, default=3, help="libraries of each size")
    options = parser.parse_args(arguments)
    clips = make_clips(options.clips)
    print_row("clips", "threshold", *PRESENT, *ABSENT)
    print_row(*["---"] * 7)
    for size in options.libraries:
        measured = [measure_threshold(clips, size, seed) for seed in range(options.draws)]
        shares = (100 * np.mean([right[kind] for _, right in measured]) for kind in (*PRESENT, *ABSENT))
        threshold = np.mean([threshold for threshold, _ in measured])
        print_row(size, f"{threshold:.2f}", *(f"{share:.0f}" for share in shares))
    for size in options.libraries:
        print(f"\nROC AUC in libraries of {size} clips:\n")
        print_row("score", *ABSENT)
        print_row(*["---"] * 4)
        measured_auc = [measure_auc(clips, size, seed) for seed in range(options.draws)]
        for name in measured_auc[0]:
            print_row(name, *(f"{area:.3f}" for area in np.mean([auc[name] for auc in measured_auc], axis=0)))


if __name__ == "__main__":
    main()
