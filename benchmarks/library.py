"""Compare this project's library functions with plain code: embedding videos, and searching 100,000 vectors in Milvus.

Embedding: `clip4clip embed`, with its default runtime and with torch, is compared with a straightforward script in the
manner of Towhee's tutorial. The script uses the published model code (`towhee.models`, torch), decodes every frame of a
video, keeps twelve, and processes one video after the other. All have the same random weights, the same torch and the
same videos, which are made from the real frames of bigbuckbunny.mp4. Every measurement is the whole run of a process;
the tools take turns within a round. clip4clip exports a checkpoint to a graph for ONNX Runtime once; this is done
before, and its time is reported separately.

Index: `VideoIndex` is compared with a plain `MilvusClient` with the same parameters and with brute force by numpy, in a
local folder (milvus-lite) and on a server (the wheel `milvus`). The vectors lie around 1,000 centres. The variances of
the centres, and of the vectors around them, fall like 1, 1/2, 1/3, … over the 512 dimensions, as those of embeddings
do. The queries are drawn in the same way and are not in the index. The clients of the server are processes. Those of a
local folder are threads, as only one process can open the folder.

The published model code needs torchvision, which needs the torch it was built for. On Linux, x86-64:

    python3 -m venv /tmp/library
    grep -v -e '^torch==' -e '^torchmetrics==' constraints.txt > /tmp/library/constraints.txt
    /tmp/library/bin/pip install -c /tmp/library/constraints.txt -e '.[peers,retrieval]' milvus
    /tmp/library/bin/python benchmarks/library.py --json docs/library.json
    /tmp/library/bin/python benchmarks/library.py --videos 4 --seconds 10 --vectors 2000 --rounds 1   # a short trial
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

MODEL = "clip_vit_b32"
SIZE, SEGMENT_SECONDS, SEGMENTS = (1280, 720), 10, 12  # each segment starts with its only key frame
OURS, OURS_BY_TORCH = "clip4clip embed", "clip4clip embed --runtime torch"
TUTORIAL, TUTORIAL_AT_BEST = "tutorial's script", "the same, decoding at best"
TOOLS = {  # with the options of clip4clip
    OURS: ["--runtime", "onnxruntime"],  # the default if it is installed
    OURS_BY_TORCH: ["--runtime", "torch"],
    TUTORIAL: None,
    TUTORIAL_AT_BEST: None,
}
TIMES = "times clip4clip's"
REQUIRED_SPEEDUP, REQUIRED_COSINE = 2.0, 0.9999  # to the tutorial's script

DIM, CENTRES, NEAREST, CLIENTS, SEARCHES = 512, 1000, 10, 8, 400
BACKENDS = {"milvus-lite": "a folder, clients are threads", "server": "Milvus 2.3.5, clients are processes"}
VIDEO_INDEX, PLAIN, BRUTE_FORCE = "VideoIndex", "plain pymilvus", "numpy, brute force"
REQUIRED_RECALL = 0.99
INSERT_BATCH_SIZE = 500  # of the plain client, as of VideoIndex
REQUIREMENTS = {
    "embedding": ("torchvision", "towhee.models", "av", "scikit-video", "pyarrow", "onnx", "onnxruntime"),
    "index": ("pymilvus", "milvus-lite", "pyarrow"),
}

VERSIONS = ("torch", "torchvision", "onnxruntime", "towhee.models", "av", "numpy", "pymilvus", "milvus-lite", "milvus")

Search = Callable[[np.ndarray], list[str]]
console = Console(width=200, stderr=True, highlight=False)


# Embedding: the inputs


def make_segment(number: int, path: Path) -> None:
    """Encode ten seconds of a real film as one group of pictures; each number has other frames, crops and tints."""
    import av
    import video

    zoom = (1.0, 0.8, 0.6)[number % 3]
    wide, high = (int(zoom * side) // 2 * 2 for side in SIZE)
    filters = [
        ("crop", f"{wide}:{high}:{(SIZE[0] - wide) * (number % 4) // 3}:{(SIZE[1] - high) * (number % 5) // 4}"),
        ("scale", f"{SIZE[0]}:{SIZE[1]}"),
        ("hue", f"h={30 * number}"),
        *([("hflip", "")] if number % 2 else []),
    ]
    graph = av.filter.Graph()
    source = graph.add_buffer(width=SIZE[0], height=SIZE[1], format="yuv420p", time_base=Fraction(1, video.RATE))
    graph.link_nodes(source, *(graph.add(name, options) for name, options in filters), graph.add("buffersink"))
    graph.configure()
    skipped, count = 11 * number, SEGMENT_SECONDS * video.RATE
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=video.RATE, options={**video.X264, "g": str(count)})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in video.pictures(SIZE, skipped + count):
            if frame.pts >= skipped:
                graph.push(frame)
                picture = graph.pull()
                picture.pts -= skipped
                picture.pict_type = av.video.frame.PictureType.NONE
                file.mux(stream.encode(picture))
        file.mux(stream.encode(None))


def splice(segments: Sequence[Path], path: Path) -> None:
    """Join the packets of several videos to one video, without encoding them again."""
    import av

    with av.open(str(segments[0])) as first, av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream_from_template(first.streams.video[0])
        offset = 0
        for segment in segments:
            with av.open(str(segment)) as source:
                packets = [packet for packet in source.demux(video=0) if packet.size]
                for packet in packets:
                    packet.pts, packet.dts = offset + (packet.pts or 0), offset + (packet.dts or 0)
                    packet.stream = stream
                    file.mux(packet)
            offset += sum(packet.duration or 0 for packet in packets)


def make_videos(count: int, seconds: int, folder: Path) -> list[Path]:
    """Make the videos that a folder does not have yet.

    No two videos have the same segments in the same order, up to 132 videos of 30 seconds.
    """
    sequences: list[list[int]] = []
    for number in range(count):
        step = 1 + number // SEGMENTS % (SEGMENTS - 1)
        sequences.append([(number + step * position) % SEGMENTS for position in range(seconds // SEGMENT_SECONDS)])
    used = sorted({segment for sequence in sequences for segment in sequence})
    segments = {number: folder / f"segment-{number}.mp4" for number in used}
    videos = {folder / f"video-{seconds}s-{number:04}.mp4": sequence for number, sequence in enumerate(sequences)}
    tasks: list[tuple[Path, Callable[[Path], None]]] = [
        (path, lambda target, number=number: make_segment(number, target)) for number, path in segments.items()
    ]
    tasks += [
        (path, lambda target, sequence=sequence: splice([segments[number] for number in sequence], target))
        for path, sequence in videos.items()
    ]
    for path, make in track(tasks, "making videos", console=console):
        if not path.exists():
            make(folder / "making.mp4")
            (folder / "making.mp4").rename(path)
    return list(videos)


def make_checkpoint(path: str) -> None:
    """Write random weights. Runs in a process of its own, because a child inherits the peak memory of its parent."""
    from safetensors.torch import save_file

    from clip4clip.config import get_model
    from clip4clip.model import random_state_dict

    save_file(random_state_dict(get_model(MODEL).config), path)


def make_graph(weights: str) -> None:
    """Export the graph for ONNX Runtime to the cache that later processes use. Also runs in a process of its own."""
    from clip4clip import VideoEncoder

    VideoEncoder.load(MODEL, weights, "cpu", "onnxruntime")


# Embedding: the tutorial's script


def embed_by_tutorial(tool: str, listing: str, weights: str, out: str, start: str) -> None:
    """Decode, preprocess and embed one video after the other. Prints its start-up time as JSON."""
    import torch
    import video
    from PIL import Image
    from safetensors.torch import load_file
    from torchvision import transforms
    from towhee.models import clip4clip

    model = clip4clip.create_model(MODEL, context_length=77, device="cpu").eval()
    model.load_state_dict({f"clip.{name}": tensor for name, tensor in load_file(weights).items()}, strict=False)
    preprocess = transforms.Compose(
        [
            transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    decode = video.by_decoding_all_at_best if tool == TUTORIAL_AT_BEST else video.by_decoding_all
    paths = Path(listing).read_text("utf-8").split("\n")
    print(json.dumps({"start": time.time() - float(start)}), flush=True)
    vectors = []
    with torch.inference_mode():
        for path in track(paths, tool, console=console):
            pixels = torch.stack([preprocess(Image.fromarray(frame)) for frame in decode(path)])
            mask = torch.ones(1, len(pixels))
            frames = model.get_visual_output(pixels, mask, shaped=True)
            frames = frames / frames.norm(dim=-1, keepdim=True)
            pooled = model._mean_pooling_for_similarity_visual(frames, mask)[0]
            vectors.append((pooled / pooled.norm()).numpy())
    np.savez(out, paths=paths, vectors=np.stack(vectors))


# Embedding: the figures


def run_command(command: Sequence[str]) -> dict[str, Any]:
    """Run a command; return its wall-clock and CPU seconds, its peak megabytes, and the JSON that it prints."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdout=printed)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"a command failed with exit code {process.returncode}: {' '.join(command)}")
        printed.seek(0)
        reports = [json.loads(line) for line in printed if line.startswith("{")]
    figures = {
        "seconds": seconds,
        "CPU seconds": used.ru_utime + used.ru_stime,
        "megabytes": used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10),
    }
    return figures | (reports[-1] if reports else {})


def embed_once(tool: str, listing: Path, weights: Path, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Embed the library once; return the figures of the run, and the vectors by path."""
    options = TOOLS[tool]
    if options is None:
        out = folder / "vectors.npz"
        figures = run_command(child("embed_by_tutorial", tool, str(listing), str(weights), str(out), str(time.time())))
        with np.load(out) as arrays:
            return figures, dict(zip(arrays["paths"].tolist(), arrays["vectors"], strict=True))
    import pyarrow.parquet as pq

    table = folder / "vectors.parquet"
    table.unlink(missing_ok=True)
    command = [sys.executable, "-m", "clip4clip", "embed", str(listing), "-o", str(table), "-m", MODEL]
    command += ["--weights", str(weights), "--device", "cpu", *options]
    figures = run_command(command)
    figures["start"] = run_command(command)["seconds"]  # all videos are embedded already: only the start-up
    rows = pq.read_table(table, columns=["path", "vector"]).to_pydict()
    return figures, dict(zip(rows["path"], (np.array(vector) for vector in rows["vector"]), strict=True))


def measure_embedding(count: int, seconds: int, rounds: int, folder: Path, temporary: Path) -> dict[str, Any]:
    paths = make_videos(count, seconds, folder)
    weights = folder / f"{MODEL}.safetensors"
    if not weights.exists():
        run_command(child("make_checkpoint", str(folder / "making.safetensors")))
        (folder / "making.safetensors").rename(weights)
    os.environ["CLIP4CLIP_CACHE"] = str(temporary / "cache")  # not the user's cache
    graph = run_command(child("make_graph", str(weights)))
    listing = temporary / "videos.txt"
    listing.write_text("\n".join(map(str, paths)), "utf-8")
    for path in [weights, *paths]:  # into the disk cache
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass
    runs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in TOOLS}
    vectors: dict[str, dict[str, np.ndarray]] = {}
    for number in range(rounds):
        for tool in [*TOOLS][number % len(TOOLS) :] + [*TOOLS][: number % len(TOOLS)]:
            figures, vectors[tool] = embed_once(tool, listing, weights, temporary)
            runs[tool].append(figures)
            console.print(f"round {number + 1} of {rounds}: {tool}, {figures['seconds']:.1f} s")
    expected = np.stack([vectors[TUTORIAL][str(path)] for path in paths])
    similarity = expected @ expected.T
    np.fill_diagonal(similarity, -1)
    report: dict[str, Any] = {
        "videos": count,
        "length": seconds,
        "rounds": rounds,
        "nearest other video": float(similarity.max()),
        "seconds to make the graph": graph["seconds"],
        "tools": {},
    }
    for tool in TOOLS:
        seconds_taken, start = (statistics.median(each[name] for each in runs[tool]) for name in ("seconds", "start"))
        cosines = (np.stack([vectors[tool][str(path)] for path in paths]) * expected).sum(1)
        report["tools"][tool] = {
            "runs": runs[tool],
            "videos per second": count / seconds_taken,
            "videos per second once started": count / (seconds_taken - start),
            "seconds": seconds_taken,
            "start": start,
            "CPU seconds": statistics.median(each["CPU seconds"] for each in runs[tool]),
            "megabytes": statistics.median(each["megabytes"] for each in runs[tool]),
            "cosine": float(cosines.min()),
            # Ratios are taken within a round: the machine may be busier in another one.
            TIMES: statistics.median(
                theirs["seconds"] / ours["seconds"] for theirs, ours in zip(runs[tool], runs[OURS], strict=True)
            ),
        }
    return report


def rows_of_embedding(report: Mapping[str, Any]) -> Iterator[list[str]]:
    head = ["", "videos/s", "once started", "s", "times clip4clip's", "start, s", "CPU, s", "peak MB", "least cosine"]
    yield head
    for tool, figures in report["tools"].items():
        yield [
            tool,
            f"{figures['videos per second']:.2f}",
            f"{figures['videos per second once started']:.2f}",
            f"{figures['seconds']:.1f}",
            f"{figures[TIMES]:.2f}",
            f"{figures['start']:.1f}",
            f"{figures['CPU seconds']:.1f}",
            f"{figures['megabytes']:.0f}",
            f"{figures['cosine']:.6f}",
        ]


# The index: its vectors


def random_vectors(count: int, seed: int) -> np.ndarray:
    """Return unit vectors around centres; the centres are the same for every seed."""
    spread = np.arange(1, DIM + 1, dtype=np.float32) ** -0.5
    centres = np.random.default_rng(0).standard_normal((CENTRES, DIM), np.float32)
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((count, DIM), np.float32)
    vectors += centres[generator.integers(0, CENTRES, count)]
    vectors *= spread
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows_for(vectors: np.ndarray) -> list[dict[str, Any]]:
    """Return rows like those of a table of vectors."""
    columns = {"duration": 30.0, "frame_count": 750, "size": 6_000_000, "mtime": 1_700_000_000_000_000_000}
    return [
        {"id": f"v{number}", "path": f"/videos/{number}.mp4", "vector": vector, **columns}
        for number, vector in enumerate(vectors)
    ]


def insert_by_video_index(uri: str, rows: list[dict[str, Any]]) -> float:
    """Return the seconds that inserting takes, without opening and closing the index."""
    from clip4clip.retrieval import VideoIndex

    complete_rows = ({**row, "model": MODEL, "fingerprint": "made up"} for row in rows)
    with VideoIndex(uri, "ours") as index:
        start = time.perf_counter()
        index.add(track(complete_rows, f"{VIDEO_INDEX}: adding", len(rows), console=console))
        return time.perf_counter() - start


def insert_by_pymilvus(uri: str, rows: list[dict[str, Any]]) -> float:
    from pymilvus import DataType, MilvusClient

    local = "://" not in uri
    client = plain_client(uri)
    start = time.perf_counter()
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=65_535)
    schema.add_field("path", DataType.VARCHAR, max_length=65_535)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    index = MilvusClient.prepare_index_params()
    kind = {"index_type": "FLAT"} if local else {"index_type": "HNSW", "params": {"M": 16, "efConstruction": 200}}
    index.add_index("vector", metric_type="COSINE", **kind)
    client.create_collection("plain", schema=schema, index_params=index, consistency_level="Session")
    for first in track(range(0, len(rows), INSERT_BATCH_SIZE), f"{PLAIN}: inserting", console=console):
        client.insert("plain", rows[first : first + INSERT_BATCH_SIZE], timeout=60)
    client.flush("plain", timeout=60)
    seconds = time.perf_counter() - start
    client.close()
    return seconds


def search_by_video_index(uri: str) -> Search:
    from clip4clip.retrieval import VideoIndex

    index = VideoIndex(uri, "ours", timeout=60)
    return lambda vector: [hit.id for hit in index.search(vector=vector, limit=NEAREST)]


def plain_client(uri: str) -> Any:
    from pymilvus import MilvusClient

    # As VideoIndex does: milvus-lite closes connections that send pymilvus's frequent keep-alive pings.
    return MilvusClient(uri, grpc_options={} if "://" in uri else {"grpc.keepalive_time_ms": 2**31 - 1})


def search_by_pymilvus(uri: str) -> Search:
    client = plain_client(uri)
    parameters = {} if "://" not in uri else {"params": {"ef": 256}}

    def search(vector: np.ndarray) -> list[str]:
        results = client.search(
            "plain", data=[vector], limit=NEAREST, output_fields=["path"], search_params=parameters, timeout=60
        )
        return [hit["id"] for hit in results[0]]

    return search


INSERTS = {VIDEO_INDEX: insert_by_video_index, PLAIN: insert_by_pymilvus}
SEARCHES_BY = {VIDEO_INDEX: search_by_video_index, PLAIN: search_by_pymilvus}
COLLECTIONS = {VIDEO_INDEX: "ours", PLAIN: "plain"}


def wait_until_indexed(uri: str, collection: str, rows: int) -> float:
    """Wait until a server has loaded its finished index, and return the seconds. Until then searches are less exact."""
    from pymilvus import MilvusClient

    if "://" not in uri:
        return 0.0
    start = time.monotonic()
    client = MilvusClient(uri)
    with console.status(f"the server builds the index of {collection!r}"):
        while True:
            index = client.describe_index(collection, "vector")
            segments = client.list_loaded_segments(collection)
            loaded = sum(segment.num_rows for segment in segments if segment.index_name)
            if index["pending_index_rows"] == 0 and loaded >= rows and all(segment.index_name for segment in segments):
                client.close()
                return time.monotonic() - start
            if time.monotonic() - start > 1800:
                raise SystemExit(f"the server has not built its index in half an hour: {index}, {segments}")
            time.sleep(1)


# The index: its clients


def run_client(kind: str, uri: str, queries: np.ndarray, ready: Any, results: Any) -> None:
    """Search for every query, once all other clients are ready."""
    try:
        search = SEARCHES_BY[kind](uri)
        search(queries[0])
        ready.wait(300)
        first_start, latencies = time.time(), []
        for vector in queries:
            start = time.perf_counter()
            search(vector)
            latencies.append(time.perf_counter() - start)
        results.put((first_start, time.time(), latencies))
    except Exception as error:
        ready.abort()
        results.put(f"{type(error).__name__}: {error}")


def search_concurrently(kind: str, uri: str, queries: np.ndarray, clients: int) -> tuple[list[float], float]:
    """Return the seconds of each search, and the searches per second of all clients together."""
    shares = np.array_split(queries, clients)
    if "://" in uri:
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["clip4clip.index.video_index"])  # imported once for all clients
        ready, results, worker = context.Barrier(clients), context.Queue(), context.Process
    else:
        ready, results, worker = threading.Barrier(clients), queue.Queue(), threading.Thread
    workers = [worker(target=run_client, args=(kind, uri, share, ready, results), daemon=True) for share in shares]
    for client in workers:
        client.start()
    reports = [results.get(timeout=1200) for _ in workers]
    for client in workers:
        client.join()
    if failed := {report for report in reports if isinstance(report, str)}:
        raise SystemExit(f"{kind} failed with {clients} clients: {'; '.join(failed)}")
    seconds = max(end for _, end, _ in reports) - min(start for start, _, _ in reports)
    return [latency for _, _, latencies in reports for latency in latencies], len(queries) / seconds


# The index: the figures


def measure_backend(backend: str, count: str, queries: str, rounds: str, folder: str) -> None:
    """Measure all kinds of clients; runs in a process of its own, and prints their figures as JSON."""
    importlib.import_module("clip4clip.index.video_index")  # not timed: it imports torch
    vectors, query_vectors = random_vectors(int(count), 1), random_vectors(int(queries), 2)
    if backend == "server":
        server = import_servers().MilvusServer(Path(folder))
        try:
            with console.status("a Milvus server starts"):
                server.start()
            report = measure_clients(dict.fromkeys(INSERTS, server.uri), vectors, query_vectors, int(rounds))
        except AssertionError as error:
            raise SystemExit(f"the Milvus server did not start (only one can run at a time): {error}") from error
        finally:
            server.kill()
    else:
        uris = {kind: str(Path(folder) / f"{collection}.db") for kind, collection in COLLECTIONS.items()}
        report = measure_clients(uris, vectors, query_vectors, int(rounds))
    print(json.dumps(report))


def measure_clients(uris: dict[str, str], vectors: np.ndarray, queries: np.ndarray, rounds: int) -> dict[str, Any]:
    nearest = [set(row) for row in np.argsort(-(queries @ vectors.T), axis=1)[:, :NEAREST].tolist()]

    def recall(search: Search) -> float:
        results = [{int(name[1:]) for name in search(query)} for query in queries]
        return sum(len(ids & right) for ids, right in zip(results, nearest, strict=True)) / (NEAREST * len(queries))

    rows = rows_for(vectors)
    report: dict[str, Any] = {}
    for kind, uri in uris.items():
        report[kind] = {"vectors per second": len(rows) / INSERTS[kind](uri, rows)}
        report[kind]["recall at once"] = recall(SEARCHES_BY[kind](uri))
        report[kind]["seconds until indexed"] = wait_until_indexed(uri, COLLECTIONS[kind], len(rows))
        report[kind]["recall"] = recall(SEARCHES_BY[kind](uri))
    report[BRUTE_FORCE] = {"recall": 1.0}

    def exact(query: np.ndarray) -> np.ndarray:
        similarity = vectors @ query
        best = np.argpartition(similarity, -NEAREST)[-NEAREST:]
        return best[np.argsort(-similarity[best])]

    repeated = np.resize(queries, (SEARCHES, DIM))
    timed: dict[tuple[str, int], list[tuple[list[float], float]]] = {}
    for number in track(range(rounds), "searching", console=console):
        for clients in (1, CLIENTS):
            kinds = list(uris)
            for kind in kinds[number % 2 :] + kinds[: number % 2]:
                timed.setdefault((kind, clients), []).append(search_concurrently(kind, uris[kind], repeated, clients))
        latencies = []
        for query in repeated:
            start = time.perf_counter()
            exact(query)
            latencies.append(time.perf_counter() - start)
        timed.setdefault((BRUTE_FORCE, 1), []).append((latencies, len(repeated) / sum(latencies)))
    for (kind, clients), measured in timed.items():
        pooled = 1000 * np.concatenate([latencies for latencies, _ in measured])
        report[kind][f"{clients} at once"] = {
            "p50": float(np.percentile(pooled, 50)),
            "p99": float(np.percentile(pooled, 99)),
            "searches per second": statistics.median(rate for _, rate in measured),
        }
    return report


def measure_index(vectors: int, queries: int, rounds: int, temporary: Path) -> dict[str, Any]:
    report: dict[str, Any] = {"vectors": vectors, "queries": queries, "rounds": rounds, "searches": SEARCHES}
    report["backends"] = {}
    for backend in BACKENDS:
        if backend == "server" and not installed(["milvus"]):
            console.print("the wheel milvus is not installed: the server is skipped")
            continue
        folder = temporary / backend
        folder.mkdir()
        figures = run_command(child("measure_backend", backend, str(vectors), str(queries), str(rounds), str(folder)))
        report["backends"][backend] = {kind: figures[kind] for kind in (VIDEO_INDEX, PLAIN, BRUTE_FORCE)}
    return report


def rows_of_index(report: Mapping[str, Any]) -> Iterator[list[str]]:
    head = ["", "vectors/s in", "until indexed", f"recall@{NEAREST}", "at once"]
    yield head + [f"{clients}: {what}" for clients in (1, CLIENTS) for what in ("p50 ms", "p99 ms", "searches/s")]
    for backend, kinds in report["backends"].items():
        for kind, figures in kinds.items():
            cells = [
                f"{figures['vectors per second']:,.0f}" if kind != BRUTE_FORCE else "–",
                f"{figures['seconds until indexed']:.0f} s" if kind != BRUTE_FORCE else "–",
                f"{figures['recall']:.4f}",
                f"{figures['recall at once']:.4f}" if kind != BRUTE_FORCE else "–",
            ]
            for clients in (1, CLIENTS):
                times = figures.get(f"{clients} at once")
                cells += (
                    [f"{times['p50']:.1f}", f"{times['p99']:.1f}", f"{times['searches per second']:.0f}"]
                    if times
                    else ["–"] * 3
                )
            yield [f"{backend}, {kind}", *cells]


# Both


def child(function: str, *arguments: str) -> list[str]:
    """Return a command that calls a function of this file in a process of its own."""
    return [sys.executable, "-W", "ignore", __file__, "--child", function, *arguments]


def import_servers() -> Any:
    """Import tests/servers.py, which is not part of a package."""
    path = Path(__file__).parent.parent / "tests" / "servers.py"
    specification = importlib.util.spec_from_file_location("servers", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def show(title: str, rows: Iterator[list[str]], markdown: bool) -> None:
    head, *body = rows
    table = Table(*head, title=title)
    for row in body:
        table.add_row(*row)
    Console(width=200, highlight=False).print(table)
    if markdown:
        print("\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body]))


def verdicts(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield whether each requirement is met, and two figures for comparison."""

    def verdict(what: str, value: float, bar: float, digits: int) -> str:
        return f"{'met' if value >= bar else 'MISSED'}: {what} {value:.{digits}f}, required {bar}"

    if embedding := report.get("embedding"):
        ours, theirs = embedding["tools"][OURS], embedding["tools"][TUTORIAL]
        yield verdict("times as fast as the tutorial's script", theirs[TIMES], REQUIRED_SPEEDUP, 2)
        yield verdict("least cosine to its vectors", ours["cosine"], REQUIRED_COSINE, 6)
        yield f"seconds to export the graph, once for each checkpoint: {embedding['seconds to make the graph']:.1f}"
        yield f"for comparison, the greatest cosine between two videos: {embedding['nearest other video']:.6f}"
    for backend, kinds in report.get("index", {}).get("backends", {}).items():
        yield verdict(f"recall@{NEAREST} of {VIDEO_INDEX}, {backend}", kinds[VIDEO_INDEX]["recall"], REQUIRED_RECALL, 4)


def check_requirements(parts: Sequence[str]) -> None:
    versions = installed({name for part in parts for name in REQUIREMENTS[part]})
    missing = [name for part in parts for name in REQUIREMENTS[part] if name not in versions]
    if missing:
        raise SystemExit(
            f"not installed: {', '.join(missing)}. The docstring of this file has the commands to install them."
        )


def installed(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of the distributions that are installed, by name. Imports nothing."""
    versions = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        globals()[sys.argv[2]](*sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=40, help="number of videos to embed")
    parser.add_argument("--seconds", type=int, default=30, help="length of each video, a multiple of ten")
    parser.add_argument("--vectors", type=int, default=100_000, help="number of vectors in the index")
    parser.add_argument("--queries", type=int, default=200, help="number of different queries")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--folder", type=Path, help="folder to keep the videos and the weights in")
    parser.add_argument("--only", choices=list(REQUIREMENTS), help="measure this part; keep the other in --json")
    parser.add_argument("--markdown", action="store_true", help="also print the tables as Markdown")
    parser.add_argument("--json", type=Path, help="report to write")
    arguments = parser.parse_args()
    if min(arguments.videos, arguments.queries, arguments.rounds) < 1 or arguments.vectors < NEAREST:
        parser.error(f"--videos, --queries and --rounds must be at least 1, and --vectors at least {NEAREST}")
    if arguments.seconds < 1 or arguments.seconds % SEGMENT_SECONDS:
        parser.error(f"--seconds must be a multiple of {SEGMENT_SECONDS}")
    parts = [arguments.only] if arguments.only else list(REQUIREMENTS)
    check_requirements(parts)
    report: dict[str, Any] = {}
    if arguments.only and arguments.json and arguments.json.exists():
        report = json.loads(arguments.json.read_text("utf-8"))
    report |= {"cores": len(os.sched_getaffinity(0)), "versions": installed(VERSIONS)}
    with tempfile.TemporaryDirectory() as temporary_folder:
        temporary = Path(temporary_folder)
        if "embedding" in parts:
            folder = (arguments.folder or temporary).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            report["embedding"] = measure_embedding(
                arguments.videos, arguments.seconds, arguments.rounds, folder, temporary
            )
        if "index" in parts:
            report["index"] = measure_index(arguments.vectors, arguments.queries, arguments.rounds, temporary)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    if embedding := report.get("embedding"):
        title = f"{embedding['videos']} videos of {embedding['length']} s, 1280×720, {MODEL}, {report['cores']} cores"
        show(title, rows_of_embedding(embedding), arguments.markdown)
    if index := report.get("index"):
        backends = "; ".join(f"{backend}: {what}" for backend, what in BACKENDS.items())
        show(f"{index['vectors']:,} vectors; {backends}", rows_of_index(index), arguments.markdown)
    for line in verdicts(report):
        print(line)


if __name__ == "__main__":
    main()
