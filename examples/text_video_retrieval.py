"""A text-video retrieval engine built from Towhee pipelines and an index.

Embed the videos of a table, search for them by their captions, and count how often the right video is among the first
1, 5 and 10 results. These are the steps of Towhee's tutorial "build a text-video retrieval engine".

    clip4clip demo                                                              # draws the clips
    python examples/text_video_retrieval.py clip4clip_demo/eval.csv             # the file ./tutorial.db
    python examples/text_video_retrieval.py clip4clip_demo/eval.csv --host 127.0.0.1 --port 19530

Needs the extra `retrieval`, or `milvus` for a server.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from towhee import ops, pipe

from clip4clip import EncoderSpec  # importing clip4clip registers its operators with Towhee
from clip4clip.evaluation.pairs import read_pairs
from clip4clip.retrieval import VideoIndex


def read_table(table: str) -> Iterator[tuple[str, str, str]]:
    """Yield (id, path, caption) of every row; paths are relative to the table."""
    for number, pair in enumerate(read_pairs(table, Path(table).parent)):
        yield str(number), str(pair.path), pair.sentence


def create_collection(address: dict[str, Any], name: str, encoder: EncoderSpec) -> None:
    """Create an empty collection, or remove the videos of an earlier run."""
    uri = address.get("uri") or f"http://{address['host']}:{address['port']}"
    with VideoIndex(uri, name, encoder=encoder) as index:
        index.create()
        index.delete(filter="exists id")


def run(
    table: str, address: dict[str, Any], collection: str, model: str, device: str | None = None
) -> dict[int, float]:
    """Insert the videos, search for the captions, and return the hit ratio, 0 to 1, at 1, 5 and 10."""
    create_collection(address, collection, EncoderSpec(model, device=device))

    insert = (
        pipe.input("table")
        .flat_map("table", ("id", "path", "caption"), read_table)
        .map(
            "path",
            "frames",
            ops.video_decode.ffmpeg(sample_type="uniform_temporal_subsample", args={"num_samples": 12}),
        )
        .map("frames", "frames", lambda frames: list(frames))
        .map(
            "frames",
            "vec",
            ops.video_text_embedding.clip4clip(model_name=model, modality="video", device=device),
        )
        .map(("id", "vec"), (), ops.ann_insert.milvus_client(**address, collection_name=collection))
        .output()
    )
    insert(table)

    search = (
        pipe.input("table")
        .flat_map("table", ("id", "path", "caption"), read_table)
        .map("caption", "vec", ops.video_text_embedding.clip4clip(model_name=model, modality="text", device=device))
        .map("vec", "rows", ops.ann_search.milvus_client(**address, collection_name=collection, limit=10))
        .map("rows", "ids", lambda rows: [row[0] for row in rows])
        .map("ids", ("top1", "top5", "top10"), lambda ids: (ids[:1], ids[:5], ids[:10]))
        .window_all(("id", "top1"), "hit1", hit_ratio)
        .window_all(("id", "top5"), "hit5", hit_ratio)
        .window_all(("id", "top10"), "hit10", hit_ratio)
        .output("hit1", "hit5", "hit10")
    )
    return dict(zip((1, 5, 10), search(table).get(), strict=True))


def hit_ratio(expected: list[str], results: list[list[str]]) -> float:
    """Return the fraction of the queries, 0 to 1, whose results contain the expected id."""
    return sum(one in ids for one, ids in zip(expected, results, strict=True)) / len(expected)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="CSV with the columns video and sentence")
    parser.add_argument("--uri", default="./tutorial.db", help="index: a file *.db or http(s)://HOST:PORT")
    parser.add_argument("--host", help="host of a Milvus server, instead of --uri")
    parser.add_argument("--port", default="19530", help="port of that server")
    parser.add_argument("--collection", default="text_video_retrieval")
    parser.add_argument("--model", default="clip_vit_tiny_demo", help="model name; the default is for drawings only")
    arguments = parser.parse_args()
    server = {"host": arguments.host, "port": arguments.port}
    address = server if arguments.host else {"uri": arguments.uri}
    for k, ratio in run(arguments.table, address, arguments.collection, arguments.model).items():
        print(f"the right video is among the first {k}: {100 * ratio:.1f} %")
