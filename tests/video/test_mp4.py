from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from clips import X264, write

from clip4clip import VideoError
from clip4clip.video import read_frames
from clip4clip.video.container import Limits
from clip4clip.video.mp4 import count_samples

PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf")


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _rebuilt(content: bytes, **changed: bytes) -> bytes:
    """An MP4 whose boxes of some types have another content; empty ones are left out."""
    made, start = b"", 0
    while start < len(content):
        size, kind = struct.unpack(">I4s", content[start : start + 8])
        inside = content[start + 8 : start + size]
        if kind.decode("latin-1") in changed:
            inside = changed[kind.decode("latin-1")]
        elif kind in PARENTS:
            inside = _rebuilt(inside, **changed)
        if inside or kind not in (b"stss", b"ctts"):
            made += _box(kind, inside)
        start += size
    return made


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("mp4") / "a.mp4", **X264).read_bytes()


def test_an_ordinary_file_names_its_frames(clip: bytes, tmp_path: Path) -> None:
    assert count_samples(io.BytesIO(clip), 100) == 25
    fragments = write(tmp_path / "b.mp4", muxer={"movflags": "frag_keyframe+empty_moov"}, **X264)
    with fragments.open("rb") as file:
        assert count_samples(file, 100) == 25


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100), b"\0\0\0\1mdat" + bytes(8), b"\x1aE\xdf\xa3" * 9])
def test_what_is_no_mp4_names_none(content: bytes) -> None:
    assert count_samples(io.BytesIO(content), 100) == 0


def _of_one_size(clip: bytes) -> bytes:
    return _rebuilt(clip, stsz=struct.pack(">3I", 0, 1, 80_000_000), stsc=struct.pack(">5I", 0, 1, 1, 80_000_000, 1))


def _in_a_fragment(clip: bytes) -> bytes:
    header = _box(b"tfhd", struct.pack(">2I", 0, 1)) + _box(b"trun", struct.pack(">2I", 0, 80_000_000))
    return clip + _box(b"moof", _box(b"mfhd", bytes(8)) + _box(b"traf", header))


def _by_edits(clip: bytes) -> bytes:
    edit = struct.pack(">3I", 2500, 0, 1 << 16)
    return _rebuilt(clip, elst=struct.pack(">2I", 0, 4_000_000) + edit * 10)


def _compressed(clip: bytes) -> bytes:
    crowded = _of_one_size(clip)
    start = crowded.index(b"moov") - 4
    movie = crowded[start:]
    inside = struct.pack(">I", len(movie)) + zlib.compress(movie)
    return crowded[:start] + _box(b"moov", _box(b"cmov", _box(b"dcom", b"zlib") + _box(b"cmvd", inside)))


def _hidden(clip: bytes, kind: bytes, before: bytes = b"") -> bytes:
    """The movie header in a box of another type."""
    crowded = _of_one_size(clip)
    start = crowded.index(b"moov") - 4
    return crowded[:start] + _box(kind, before + crowded[start:])


def _in_free_space(clip: bytes) -> bytes:
    """Where FFmpeg looks when it has found no movie header."""
    crowded = _of_one_size(clip)
    return crowded.replace(b"moov", b"free")


def _in_metadata(clip: bytes) -> bytes:
    return _hidden(clip, b"meta", bytes(4) + b"\0hdlr" + bytes(11) + _box(b"hdlr", bytes(24)))


def _in_protection(clip: bytes) -> bytes:
    return _hidden(clip, b"sinf")


def _added(content: bytes, kind: bytes, extra: bytes) -> bytes:
    """An MP4 with more in its boxes of a type."""
    start = content.index(kind) + 4
    inside = content[start : start - 8 + int.from_bytes(content[start - 8 : start - 4], "big")]
    return _rebuilt(content, **{kind.decode(): inside + extra})


def _in_a_description(clip: bytes) -> bytes:
    entry = clip.index(b"avc1") - 4
    description = clip[entry : entry + int.from_bytes(clip[entry : entry + 4], "big")]
    table = _box(b"stsz", struct.pack(">3I", 0, 1, 80_000_000))
    return _rebuilt(clip, stsd=struct.pack(">2I", 0, 1) + _box(b"avc1", description[8:] + table))


def _in_groups(clip: bytes) -> bytes:
    groups = _box(b"sbgp", bytes(4) + b"sync" + struct.pack(">3I", 1, 80_000_000, 1))
    return _added(clip, b"stbl", groups)


def _by_time_offsets(clip: bytes) -> bytes:
    groups = _box(b"sbgp", bytes(4) + b"sync" + struct.pack(">3I", 1, 25, 1))
    return _rebuilt(_added(clip, b"stbl", groups), ctts=struct.pack(">4I", 0, 1, 80_000_000, 0))


def _in_many_tracks(clip: bytes) -> bytes:
    samples = 2_000_000
    crowded = _rebuilt(clip, stsz=struct.pack(">3I", 0, 1, samples), stsc=struct.pack(">5I", 0, 1, 1, samples, 1))
    start = crowded.index(b"trak") - 4
    track = crowded[start : start + int.from_bytes(crowded[start : start + 4], "big")]
    return _added(crowded, b"moov", track * 40)


@pytest.mark.parametrize(
    "crowd",
    [
        *(_of_one_size, _in_a_fragment, _by_edits, _compressed, _in_free_space, _in_metadata, _in_protection),
        *(_in_a_description, _in_groups, _by_time_offsets, _in_many_tracks),
    ],
)
def test_a_small_file_cannot_name_millions_of_frames(crowd: object, clip: bytes) -> None:
    """FFmpeg would take gigabytes for them before it says how many they are."""
    content = crowd(clip)  # type: ignore[operator]
    assert len(content) < 50_000
    assert count_samples(io.BytesIO(content), 6_000_000) > 6_000_000
    with pytest.raises(VideoError, match="over 6,000,000 frames, which is the limit"):
        next(read_frames(content))


def _deflated(content: bytes) -> bytes:
    return _box(b"cmvd", struct.pack(">I", len(content)) + zlib.compress(content))


def test_compressed_headers_in_each_other_are_not_unpacked() -> None:
    """A file of some kilobytes would take hours."""
    bomb = bytes(60 << 20)
    for _ in range(4):
        bomb = _deflated(bomb) * 40
    assert len(bomb) < 200_000
    assert count_samples(io.BytesIO(bomb), 1000) == 1001
    assert count_samples(io.BytesIO(_deflated(bytes(80 << 20))), 1000) == 1001


def test_an_hour_of_uncompressed_sound_is_no_crowd(tmp_path: Path) -> None:
    """Each of its samples is named, but FFmpeg keeps them by the thousand."""
    path = write(tmp_path / "a.mov", sound="pcm_s16le", count=200, **X264)
    with path.open("rb") as file:
        assert 200 < count_samples(file, 1000) < 1000
    assert len(list(read_frames(path, limits=Limits(frames=1000)))) == 12
