"""A text-video retrieval engine of Towhee pipelines and Milvus.

Embeds the videos of a table, finds them by their captions, and counts how often the right one is among the first 1, 5
and 10. These are the steps of Towhee's tutorial "build a text-video retrieval engine".

    clip4clip demo                                                              # draws the clips
    python examples/text_video_retrieval.py clip4clip_demo/eval.csv             # a local file, ./tutorial.db
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

import clip4clip  # noqa: F401  from here on Towhee finds its operators
from clip4clip.config import get_model
from clip4clip.evaluation.pairs import read_pairs


def read_table(table: str) -> Iterator[tuple[int, str, str]]:
    """(id, path, caption) of every row; paths are relative to the table."""
    for number, pair in enumerate(read_pairs(table, Path(table).parent)):
        yield number, str(pair.path), pair.sentence


def make_collection(where: dict[str, Any], name: str, dim: int) -> None:
    """An empty collection with a whole number and a vector for each video, as the tutorial has it."""
    # milvus-lite's own server logs a call that pymilvus makes and can do without.
    logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
    client = MilvusClient(where.get("uri") or f"http://{where['host']}:{where['port']}")
    if client.has_collection(name):
        client.drop_collection(name)
    schema = MilvusClient.create_schema(auto_id=False, description="text-video retrieval")
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dim)
    index = MilvusClient.prepare_index_params()
    index.add_index("embedding", index_type="IVF_FLAT", metric_type="L2", params={"nlist": 16})
    client.create_collection(name, schema=schema, index_params=index)


def run(table: str, where: dict[str, Any], collection: str, model: str, device: str | None = None) -> dict[str, float]:
    """Embeds, inserts, searches; the share of captions whose video is among the first 1, 5 and 10."""
    make_collection(where, collection, get_model(model).config.embed_dim)

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
        .map(("id", "vec"), (), ops.ann_insert.milvus_client(**where, collection_name=collection))
        .output()
    )
    insert(table)

    search = (
        pipe.input("table")
        .flat_map("table", ("id", "path", "caption"), read_table)
        .map("caption", "vec", ops.video_text_embedding.clip4clip(model_name=model, modality="text", device=device))
        .map("vec", "found", ops.ann_search.milvus_client(**where, collection_name=collection, limit=10))
        .map("found", "ids", lambda rows: [row[0] for row in rows])
        .map("ids", ("top1", "top5", "top10"), lambda ids: (ids[:1], ids[:5], ids[:10]))
        .window_all(("id", "top1"), "hit1", hit_ratio)
        .window_all(("id", "top5"), "hit5", hit_ratio)
        .window_all(("id", "top10"), "hit10", hit_ratio)
        .output("hit1", "hit5", "hit10")
    )
    return dict(zip((1, 5, 10), search(table).get(), strict=True))


def hit_ratio(right: list[int], found: list[list[int]]) -> float:
    """How many of the right ones were found, 0 to 1."""
    return sum(one in some for one, some in zip(right, found, strict=True)) / len(right)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="CSV with the columns video and sentence")
    parser.add_argument("--uri", default="./tutorial.db", help="Milvus: a local file *.db or http(s)://host:port")
    parser.add_argument("--host", help="of a Milvus server, instead of --uri")
    parser.add_argument("--port", default="19530")
    parser.add_argument("--collection", default="text_video_retrieval")
    parser.add_argument("--model", default="clip_vit_tiny_demo", help="the default is for drawings alone")
    given = parser.parse_args()
    place = {"host": given.host, "port": given.port} if given.host else {"uri": given.uri}
    for first, ratio in run(given.table, place, given.collection, given.model).items():
        print(f"the right video is among the first {first}: {100 * ratio:.1f} %")
