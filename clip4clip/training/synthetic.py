"""A data set of drawn videos with captions, which ``clip_vit_tiny_demo`` is trained and evaluated on.

It has clips of one scene each, and long videos of many scenes. A video depends only on its number and the seed: the
same call draws the same pictures and writes the same captions. Only the bytes of the video files also depend on the
version of the video encoder.
"""

from __future__ import annotations

import csv
import functools
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np

from ..errors import InputValueError, TrainingError
from ..files import atomic_write
from ..progress import Track, no_progress
from .drawing import FRAME_RATE, SIDE, draw, draw_long
from .scenes import PARAPHRASES, Moment, Scene, describe, long_videos, scenes

CHUNK_SIZE = 16  # clips that a process gets at a time

MomentRow = tuple[str, str, float, float]  # of the table of long videos


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
    _check_workers(workers)
    rows, clips = _plan(train, evaluation, seed)
    for kind, count in (("train", train), ("eval", evaluation)):
        if count:
            (folder / kind).mkdir(parents=True, exist_ok=True)
    jobs = [
        functools.partial(_draw_clip, scene, random, folder / name)
        for scene, random, name in clips
        if not (folder / name).exists()
    ]
    _draw(jobs, workers, track, "drawing clips", CHUNK_SIZE)
    written = {folder / f"{table}.csv": table_rows for table, table_rows in rows.items() if table_rows}
    for path, table_rows in written.items():
        _write_table([("video", "sentence"), *table_rows], path)
    return list(written)


def write_long_videos(
    folder: Path,
    count: int,
    seed: int = 0,
    held_out: bool = True,
    workers: int | None = None,
    track: Track = no_progress,
) -> Path:
    """Draw, encode and describe long videos of many scenes. Existing ones are kept: repeat an interrupted call.

    Call this function under ``if __name__ == "__main__":``, as :func:`write_dataset`.

    Args:
        folder: output folder. It gets ``long.csv`` with the columns ``video``, ``sentence``, ``start`` and ``end``
            (seconds), which has a row for each scene, and the videos in ``long/``; of scenes to train with,
            ``long_train.csv`` and ``long_train/``.
        count: number of videos, each of about four minutes and twenty scenes.
        seed: seed of the videos, at least 0. Another seed gives other videos under other names.
        held_out: whether to draw held-out scenes, as the clips to evaluate on, or scenes to train with.
        workers: number of processes, at least 1; None for one per core.
        track: progress callback; see :data:`clip4clip.progress.Track`.

    Returns:
        The table that was written.

    Raises:
        InputValueError: ``seed`` or ``workers`` is too small, or ``count`` is over the limit.
        TrainingError: as for :func:`write_dataset`.
    """
    _check_workers(workers)
    rows, videos = _plan_long(count, seed, held_out)
    for _, name in videos:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    jobs = [
        functools.partial(_draw_long_video, moments, folder / name)
        for moments, name in videos
        if not (folder / name).exists()
    ]
    _draw(jobs, workers, track, "drawing long videos", 1)
    table = folder / f"{_long_name(held_out)}.csv"
    _write_table([("video", "sentence", "start", "end"), *rows], table)
    return table


def long_table(count: int, seed: int = 0, held_out: bool = True) -> list[MomentRow]:
    """Return the rows of the table that :func:`write_long_videos` writes: video, caption, start and end in seconds."""
    return _plan_long(count, seed, held_out)[0]


def tables(train: int, evaluation: int, seed: int = 0) -> dict[str, list[tuple[str, str]]]:
    """Return the rows of the tables that :func:`write_dataset` writes: the name and the caption of each clip."""
    return _plan(train, evaluation, seed)[0]


def write_clip(frames: Iterable[np.ndarray], path: Path) -> None:
    """Encode frames, uint8 RGB of shape (128, 128, 3), as an H.264 file. The file appears when it is complete."""
    with atomic_write(path) as temporary, av.open(temporary, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=FRAME_RATE, options={"preset": "veryfast", "crf": "20"})
        stream.height = stream.width = SIDE
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise InputValueError(f"workers must be at least 1, not {workers}")


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise InputValueError(f"seed must be at least 0, not {seed}")


def _plan(
    train: int, evaluation: int, seed: int
) -> tuple[dict[str, list[tuple[str, str]]], list[tuple[Scene, np.random.Generator, str]]]:
    """Return the rows of each table; and the scene, the random generator and the name of each clip."""
    _check_seed(seed)
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


def _plan_long(
    count: int, seed: int, held_out: bool
) -> tuple[list[MomentRow], list[tuple[list[tuple[Moment, np.random.Generator]], str]]]:
    """Return the rows of the table; and the moments, with their random generators, and the name of each video."""
    _check_seed(seed)
    rows: list[MomentRow] = []
    videos = []
    for number, moments in enumerate(long_videos(count, seed, held_out)):
        name = f"{_long_name(held_out)}/{seed}-{number:06}.mp4"
        rows += [(name, describe(moment.scene, random), moment.start, moment.end) for moment, random in moments]
        videos.append((moments, name))
    return rows, videos


def _long_name(held_out: bool) -> str:
    """Return the name of the table and the folder of the long videos."""
    return "long" if held_out else "long_train"


def _draw(jobs: Sequence[Callable[[], None]], workers: int | None, track: Track, title: str, chunk_size: int) -> None:
    """Run the jobs, each of which draws a video, in processes; each process gets ``chunk_size`` of them at a time."""
    # The processes are spawned, not forked, as the caller may run threads (torch does). They ignore Ctrl-C, which only
    # the calling process handles.
    ignore_ctrl_c = signal.signal, (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(workers, get_context("spawn"), *ignore_ctrl_c) as pool:
        try:
            for _ in track(pool.map(_run, jobs, chunksize=chunk_size), len(jobs), title):
                pass
        except BrokenProcessPool as error:
            raise TrainingError(
                "a process that draws clips has ended. Each of them imports the calling script again, so a script must "
                'draw clips under `if __name__ == "__main__":`'
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _run(job: Callable[[], None]) -> None:
    job()


def _draw_clip(scene: Scene, random: np.random.Generator, path: Path) -> None:
    write_clip(draw(scene, random), path)


def _draw_long_video(moments: list[tuple[Moment, np.random.Generator]], path: Path) -> None:
    write_clip(draw_long(moments), path)


def _write_table(rows: Iterable[tuple], path: Path) -> None:
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
