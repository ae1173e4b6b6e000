"""A data set of drawn clips with captions, which ``clip_vit_tiny_demo`` is trained and evaluated on.

A clip depends only on its number and the seed: the same call draws the same pictures and writes the same captions. Only
the bytes of the video files also depend on the version of the video encoder.
"""

from __future__ import annotations

import csv
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np

from ..errors import InputValueError, TrainingError
from ..files import atomic_write
from ..progress import Track, no_progress
from .drawing import draw
from .scenes import PARAPHRASES, Scene, describe, scenes

FRAME_RATE = 8
CHUNK_SIZE = 16  # clips that a process gets at a time


def write_dataset(
    folder: Path,
    train: int,
    evaluation: int,
    seed: int = 0,
    workers: int | None = None,
    track: Track = no_progress,
) -> list[Path]:
    """Draw, encode and describe the clips of a data set. Existing clips are kept: repeat an interrupted call.

    The clips are drawn in processes, and each imports the calling script again: call this function under
    ``if __name__ == "__main__":``.

    Args:
        folder: output folder. It gets ``train.csv``, ``eval.csv`` and ``eval_paraphrased.csv``, each with the columns
            ``video`` and ``sentence``, and the clips in ``train/`` and ``eval/``.
        train: number of clips to train with, each with one caption.
        evaluation: number of held-out clips, each with one caption in the words and patterns of the training, and one
            in patterns that training captions never have.
        seed: seed of the clips, at least 0. Another seed gives other clips under other names.
        workers: number of processes, at least 1; None for one per core.
        track: progress callback; see :data:`clip4clip.progress.Track`.

    Returns:
        The tables that were written; none for ``train`` or ``evaluation`` clips if their number is 0.

    Raises:
        InputValueError: ``seed`` or ``workers`` is too small, or ``evaluation`` is larger than the number of different
            held-out scenes.
        TrainingError: a process that draws clips ended early, as it does without the guard above.
    """
    if workers is not None and workers < 1:
        raise InputValueError(f"workers must be at least 1, not {workers}")
    rows, clips = _plan(train, evaluation, seed)
    for kind, count in (("train", train), ("eval", evaluation)):
        if count:
            (folder / kind).mkdir(parents=True, exist_ok=True)
    jobs = [(scene, random, folder / name) for scene, random, name in clips if not (folder / name).exists()]
    _draw_clips(jobs, workers, track)
    written = {folder / f"{table}.csv": table_rows for table, table_rows in rows.items() if table_rows}
    for path, table_rows in written.items():
        _write_table(table_rows, path)
    return list(written)


def tables(train: int, evaluation: int, seed: int = 0) -> dict[str, list[tuple[str, str]]]:
    """Return the rows of the tables that :func:`write_dataset` writes: the name and the caption of each clip."""
    return _plan(train, evaluation, seed)[0]


def write_clip(frames: np.ndarray, path: Path) -> None:
    """Encode frames, uint8 RGB of shape (N, H, W, 3), as an H.264 file. The file appears when it is complete."""
    with atomic_write(path) as temporary, av.open(temporary, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=FRAME_RATE, options={"preset": "veryfast", "crf": "20"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))


def _plan(
    train: int, evaluation: int, seed: int
) -> tuple[dict[str, list[tuple[str, str]]], list[tuple[Scene, np.random.Generator, str]]]:
    """Return the rows of each table; and the scene, the random generator and the name of each clip."""
    if seed < 0:
        raise InputValueError(f"seed must be at least 0, not {seed}")
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "eval": [], "eval_paraphrased": []}
    clips = []
    for kind, count in (("train", train), ("eval", evaluation)):
        for number, (scene, random) in enumerate(scenes(count, seed, held_out=kind == "eval")):
            name = f"{kind}/{seed}-{number:06}.mp4"
            rows[kind].append((name, describe(scene, random)))
            if kind == "eval":
                rows["eval_paraphrased"].append((name, describe(scene, random, PARAPHRASES)))
            clips.append((scene, random, name))
    return rows, clips


def _draw_clips(jobs: list[tuple[Scene, np.random.Generator, Path]], workers: int | None, track: Track) -> None:
    # The processes are spawned, not forked, as the caller may run threads (torch does). They ignore Ctrl-C, which only
    # the calling process handles.
    ignore_ctrl_c = signal.signal, (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(workers, get_context("spawn"), *ignore_ctrl_c) as pool:
        try:
            for _ in track(pool.map(_draw_clip, jobs, chunksize=CHUNK_SIZE), len(jobs), "drawing clips"):
                pass
        except BrokenProcessPool as error:
            raise TrainingError(
                "a process that draws clips has ended. Each of them imports the calling script again, so a script must "
                'draw clips under `if __name__ == "__main__":`'
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _draw_clip(job: tuple[Scene, np.random.Generator, Path]) -> None:
    scene, random, path = job
    write_clip(draw(scene, random), path)


def _write_table(rows: list[tuple[str, str]], path: Path) -> None:
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("video", "sentence"), *rows])
