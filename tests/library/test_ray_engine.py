"""Embedding on a Ray cluster of this machine with two CPUs, compared with the local engine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from constants import DEMO_MODEL
from library_tables import write_scenes
from servers import free_port

from clip4clip import LibraryError
from clip4clip.encoder import EncoderSpec
from clip4clip.library.embed import embed_library
from clip4clip.library.ray_engine import RayCluster
from clip4clip.library.table import read_rows

ray = pytest.importorskip("ray")


@pytest.fixture
def cluster() -> Iterator[None]:
    for attempt in range(3):  # on a busy machine the half minute that Ray gives a node to start may be too short
        try:
            ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
            break
        except Exception:
            ray.shutdown()
            if attempt == 2:
                raise
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_rows_are_those_of_the_local_engine_and_either_resumes_the_others_table(drawings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    shutil.copytree(drawings / "eval", folder)
    (folder / "bad.mp4").write_text("not a video")
    write_scenes(folder / "0long.mp4", (1, 20), (None, 20), (2, 20))
    write_scenes(folder / "black.mp4", (None, 40))
    local, remote = tmp_path / "local.parquet", tmp_path / "ray.parquet"
    embed_library(folder, local, encoder=EncoderSpec(DEMO_MODEL))
    report = embed_library(folder, remote, encoder=EncoderSpec(DEMO_MODEL), cluster=RayCluster(actors=2), workers=1)
    assert (report.videos, report.segments, report.processed) == (27, 27, 27)
    assert list(report.failed) == [str(folder / "bad.mp4")]
    assert pq.read_schema(local).equals(pq.read_schema(remote), check_metadata=True)
    assert sum(row["start"] is not None for row in read_rows(remote)) == 3
    for expected, row in zip(read_rows(local), read_rows(remote), strict=True):
        vectors = expected.pop("vector"), row.pop("vector")
        assert expected == row
        if vectors[0] is None:
            assert vectors[1] is None
        else:
            np.testing.assert_allclose(*vectors, atol=1e-5)
    # The Ray engine resumes the table of the local one.
    write_scenes(folder / "new.mp4", (1, 20), (2, 20))
    report = embed_library(folder, local, encoder=EncoderSpec(DEMO_MODEL), cluster=RayCluster(actors=2), workers=1)
    assert report.processed == 1
    assert embed_library(folder, local, encoder=EncoderSpec(DEMO_MODEL), cluster=RayCluster()).processed == 0


def test_a_cluster_that_does_not_answer_is_reported(drawings: Path, tmp_path: Path) -> None:
    ray.shutdown()
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(LibraryError, match=f"no Ray cluster answers at {address}"):
        embed_library(
            drawings / "eval",
            tmp_path / "v.parquet",
            encoder=EncoderSpec(DEMO_MODEL),
            cluster=RayCluster(address=address),
        )
