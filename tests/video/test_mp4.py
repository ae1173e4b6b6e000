"""Samples are counted in honest files and in files that declare millions of them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from clips import X264, write

from clip4clip import VideoError
from clip4clip.video import Limits, read_frames
from clip4clip.video.mp4 import count_samples

PARENT_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf")
MILLIONS = 80_000_000  # samples


def _box(box_type: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), box_type) + content


def _replace(mp4: bytes, **contents: bytes) -> bytes:
    """Replace the content of boxes of some types. Empty ``stss`` and ``ctts`` boxes are dropped."""
    replaced, start = b"", 0
    while start < len(mp4):
        size, box_type = struct.unpack(">I4s", mp4[start : start + 8])
        content = mp4[start + 8 : start + size]
        if box_type.decode("latin-1") in contents:
            content = contents[box_type.decode("latin-1")]
        elif box_type in PARENT_BOXES:
            content = _replace(content, **contents)
        if content or box_type not in (b"stss", b"ctts"):
            replaced += _box(box_type, content)
        start += size
    return replaced


def _append(mp4: bytes, box_type: bytes, extra: bytes) -> bytes:
    """Append to the content of the boxes of a type."""
    start = mp4.index(box_type) + 4
    content = mp4[start : start - 8 + int.from_bytes(mp4[start - 8 : start - 4], "big")]
    return _replace(mp4, **{box_type.decode(): content + extra})


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("mp4") / "a.mp4", **X264).read_bytes()


def test_an_ordinary_file_declares_its_frames(mp4: bytes, tmp_path: Path) -> None:
    assert count_samples(io.BytesIO(mp4), 100) == 25
    fragments = write(tmp_path / "b.mp4", muxer={"movflags": "frag_keyframe+empty_moov"}, **X264)
    with fragments.open("rb") as file:
        assert count_samples(file, 100) == 25


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100), b"\0\0\0\1mdat" + bytes(8), b"\x1aE\xdf\xa3" * 9])
def test_a_file_that_is_not_an_mp4_declares_no_samples(content: bytes) -> None:
    assert count_samples(io.BytesIO(content), 100) == 0


# Small files that declare millions of samples, each by another structure


def _samples_of_one_size(mp4: bytes, samples: int = MILLIONS) -> bytes:
    return _replace(mp4, stsz=struct.pack(">3I", 0, 1, samples), stsc=struct.pack(">5I", 0, 1, 1, samples, 1))


def _split_at_movie_header(mp4: bytes) -> tuple[bytes, bytes]:
    start = mp4.index(b"moov") - 4
    return mp4[:start], mp4[start:]


def _in_a_fragment(mp4: bytes) -> bytes:
    header = _box(b"tfhd", struct.pack(">2I", 0, 1)) + _box(b"trun", struct.pack(">2I", 0, MILLIONS))
    return mp4 + _box(b"moof", _box(b"mfhd", bytes(8)) + _box(b"traf", header))


def _in_an_edit_list(mp4: bytes) -> bytes:
    edit = struct.pack(">3I", 2500, 0, 1 << 16)
    return _replace(mp4, elst=struct.pack(">2I", 0, 4_000_000) + edit * 10)


def _in_a_compressed_header(mp4: bytes) -> bytes:
    before, movie = _split_at_movie_header(_samples_of_one_size(mp4))
    content = struct.pack(">I", len(movie)) + zlib.compress(movie)
    return before + _box(b"moov", _box(b"cmov", _box(b"dcom", b"zlib") + _box(b"cmvd", content)))


def _in_free_space(mp4: bytes) -> bytes:
    """FFmpeg looks there if it has found no movie header."""
    return _samples_of_one_size(mp4).replace(b"moov", b"free")


def _in_metadata(mp4: bytes) -> bytes:
    before, movie = _split_at_movie_header(_samples_of_one_size(mp4))
    return before + _box(b"meta", bytes(4) + b"\0hdlr" + bytes(11) + _box(b"hdlr", bytes(24)) + movie)


def _in_a_protection_box(mp4: bytes) -> bytes:
    before, movie = _split_at_movie_header(_samples_of_one_size(mp4))
    return before + _box(b"sinf", movie)


def _in_a_sample_description(mp4: bytes) -> bytes:
    start = mp4.index(b"avc1") - 4
    description = mp4[start : start + int.from_bytes(mp4[start : start + 4], "big")]
    sizes = _box(b"stsz", struct.pack(">3I", 0, 1, MILLIONS))
    return _replace(mp4, stsd=struct.pack(">2I", 0, 1) + _box(b"avc1", description[8:] + sizes))


def _in_sync_groups(mp4: bytes) -> bytes:
    return _append(mp4, b"stbl", _box(b"sbgp", bytes(4) + b"sync" + struct.pack(">3I", 1, MILLIONS, 1)))


def _in_time_offsets(mp4: bytes) -> bytes:
    groups = _box(b"sbgp", bytes(4) + b"sync" + struct.pack(">3I", 1, 25, 1))
    return _replace(_append(mp4, b"stbl", groups), ctts=struct.pack(">4I", 0, 1, MILLIONS, 0))


def _in_many_tracks(mp4: bytes) -> bytes:
    crowded = _samples_of_one_size(mp4, 2_000_000)
    start = crowded.index(b"trak") - 4
    track = crowded[start : start + int.from_bytes(crowded[start : start + 4], "big")]
    return _append(crowded, b"moov", track * 40)


@pytest.mark.parametrize(
    "crowd",
    [
        *(_samples_of_one_size, _in_a_fragment, _in_an_edit_list, _in_a_compressed_header, _in_free_space),
        *(_in_metadata, _in_a_protection_box, _in_a_sample_description, _in_sync_groups, _in_time_offsets),
        _in_many_tracks,
    ],
)
def test_a_small_file_that_declares_millions_of_samples_is_over_the_limit(
    crowd: Callable[[bytes], bytes], mp4: bytes
) -> None:
    """FFmpeg would allocate gigabytes for them before it says how many they are."""
    content = crowd(mp4)
    assert len(content) < 50_000
    assert count_samples(io.BytesIO(content), 6_000_000) > 6_000_000
    with pytest.raises(VideoError, match="over 6,000,000 frames, which is the limit"):
        next(read_frames(content))


def _compressed_header(content: bytes) -> bytes:
    return _box(b"cmvd", struct.pack(">I", len(content)) + zlib.compress(content))


def test_compressed_headers_within_compressed_headers_are_not_unpacked() -> None:
    """A file of some kilobytes would take hours."""
    bomb = bytes(60 << 20)
    for _ in range(4):
        bomb = _compressed_header(bomb) * 40
    assert len(bomb) < 200_000
    assert count_samples(io.BytesIO(bomb), 1000) == 1001
    assert count_samples(io.BytesIO(_compressed_header(bytes(80 << 20))), 1000) == 1001


def test_samples_of_uncompressed_sound_count_by_the_thousand(tmp_path: Path) -> None:
    """The file declares each of them, but FFmpeg keeps 1,024 of them as one."""
    path = write(tmp_path / "a.mov", sound="pcm_s16le", count=200, **X264)
    with path.open("rb") as file:
        assert 200 < count_samples(file, 1000) < 1000
    assert len(list(read_frames(path, limits=Limits(frames=1000)))) == 12
