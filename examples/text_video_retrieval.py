"""A text-video retrieval engine built from Towhee pipelines and Milvus.

Embed the videos of a table, search for them by their captions, and count how often the right video is among the first
1, 5 and 10 results. These are the steps of Towhee's tutorial "build a text-video retrieval engine".

    clip4clip demo                                                              # draws the clips
    python examples/text_video_retrieval.py clip4clip_demo/eval.csv             # a local folder, ./tutorial.db
    python examples/text_video_retrieval.py clip4clip_demo/eval.csv --host 127.0.0.1 --port 19530

Needs the extra `retrieval`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pymilvus import DataType, MilvusClient
from towhee import ops, pipe

import clip4clip  # noqa: F401  registers the operators with Towhee
from clip4clip.config import get_model
from clip4clip.evaluation.pairs import read_pairs


def read_table(table: str) -> Iterator[tuple[int, str, str]]:
    """Yield (id, path, caption) of every row; paths are relative to the table."""
    for number, pair in enumerate(read_pairs(table, Path(table).parent)):
        yield number, str(pair.path), pair.sentence


def create_collection(address: dict[str, Any], name: str, dim: int) -> None:
    """Create an empty collection with an integer id and a vector for each video, as in the tutorial."""
    # milvus-lite's server logs an error for an optional call that it does not support.
    logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
    client = MilvusClient(address.get("uri") or f"http://{address['host']}:{address['port']}")
    if client.has_collection(name):
        client.drop_collection(name)
    schema = MilvusClient.create_schema(auto_id=False, description="text-video retrieval")
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dim)
    index = MilvusClient.prepare_index_params()
    index.add_index("embedding", index_type="IVF_FLAT", metric_type="L2", params={"nlist": 16})
    client.create_collection(name, schema=schema, index_params=index)


def run(
    table: str, address: dict[str, Any], collection: str, model: str, device: str | None = None
) -> dict[int, float]:
    """Insert the videos, search for the captions, and return the hit ratio, 0 to 1, at 1, 5 and 10."""
    create_collection(address, collection, get_model(model).config.embed_dim)

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


def hit_ratio(expected: list[int], results: list[list[int]]) -> float:
    """Return the fraction of the queries, 0 to 1, whose results contain the expected id."""
    return sum(one in ids for one, ids in zip(expected, results, strict=True)) / len(expected)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="CSV with the columns video and sentence")
    parser.add_argument("--uri", default="./tutorial.db", help="Milvus: a local folder *.db or http(s)://host:port")
    parser.add_argument("--host", help="host of a Milvus server, instead of --uri")
    parser.add_argument("--port", default="19530", help="port of that server")
    parser.add_argument("--collection", default="text_video_retrieval")
    parser.add_argument("--model", default="clip_vit_tiny_demo", help="model name; the default is for drawings only")
    arguments = parser.parse_args()
    server = {"host": arguments.host, "port": arguments.port}
    milvus = server if arguments.host else {"uri": arguments.uri}
    for k, ratio in run(arguments.table, milvus, arguments.collection, arguments.model).items():
        print(f"the right video is among the first {k}: {100 * ratio:.1f} %")
