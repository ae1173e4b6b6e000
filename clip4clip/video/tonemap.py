"""HDR frames to SDR: what a film in PQ or HLG looks like on an ordinary screen.

PQ and HLG: ITU-R BT.2100. The curve that compresses what is brighter than the screen: ITU-R BT.2390, 5.4.1. Both are
functions of one channel here, so that a table does them; HLG's gamma of the whole picture is one of each channel, too.
"""

from __future__ import annotations

import functools

import av
import numpy as np
from av.video.reformatter import VideoReformatter

PQ, HLG = 16, 18  # FFmpeg's numbers of transfer functions, ISO 23091-2
BT2020 = 9  # of primaries
SCREEN = 203.0  # candela per square metre of white in SDR, ITU-R BT.2408
MASTER = 1000.0  # of the brightest that is kept apart from white: HLG's own, and that of most films in PQ
TO_BT709 = np.array(  # linear light of BT.2020 primaries, ITU-R BT.2087
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def is_hdr(frame: av.VideoFrame) -> bool:
    """Whether a frame is in PQ or HLG."""
    return frame.color_trc in (PQ, HLG)


def to_sdr(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """Return an HDR frame as uint8 RGB of BT.709, of shape (height, width, 3)."""
    signal = reformatter.reformat(frame, format="rgb48le", threads=1).to_ndarray()
    light = _light(int(frame.color_trc))[signal]
    if frame.color_primaries == BT2020:
        light = light @ TO_BT709.T
    return _gamma()[(light.clip(0, 1) * 65535 + 0.5).astype(np.uint16)]


@functools.cache
def _light(transfer: int) -> np.ndarray:
    """Of each 16-bit signal the light on the screen, float32 from 0 to 1."""
    signal = np.arange(65536) / 65535
    if transfer == HLG:
        a = 0.17883277
        b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        signal = _to_pq(MASTER * scene**1.2)
    return (_from_pq(_roll_off(signal)) / SCREEN).clip(0, 1).astype(np.float32)


def _roll_off(signal: np.ndarray) -> np.ndarray:
    source, most = float(_to_pq(np.array(MASTER))), float(_to_pq(np.array(SCREEN)))
    most /= source
    signal = (signal / source).clip(0, 1)
    knee = 1.5 * most - 0.5
    t = (signal - knee).clip(0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return np.where(signal < knee, signal, spline) * source


_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def _to_pq(light: np.ndarray) -> np.ndarray:
    power = (light / 10000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


def _from_pq(signal: np.ndarray) -> np.ndarray:
    power = signal ** (1 / _M2)
    return 10000 * ((power - _C1).clip(0) / (_C2 - _C3 * power)) ** (1 / _M1)


@functools.cache
def _gamma() -> np.ndarray:
    """Of 16 bits of light the 8-bit signal that a screen of gamma 2.4 shows so, ITU-R BT.1886."""
    return (255 * (np.arange(65536) / 65535) ** (1 / 2.4) + 0.5).astype(np.uint8)
