"""Convert HDR frames to SDR: what a video in PQ or HLG looks like on an ordinary screen.

PQ and HLG are defined in ITU-R BT.2100; the curve that compresses light above SDR white in ITU-R BT.2390, section
5.4.1. Both are applied to each colour channel separately, so a lookup table does them. This includes the gamma of HLG,
which the standard applies to the brightness of a pixel.
"""

from __future__ import annotations

import functools

import av
import numpy as np
from av.video.reformatter import VideoReformatter

PQ, HLG = 16, 18  # FFmpeg's numbers of transfer functions, ISO 23091-2
BT2020 = 9  # FFmpeg's number of colour primaries
SDR_WHITE = 203.0  # candela per square metre, ITU-R BT.2408
HDR_PEAK = 1000.0  # candela per square metre: the peak of HLG, and of most videos in PQ; brighter light is cut off
BT2020_TO_BT709 = np.array(  # for linear light, ITU-R BT.2087
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
# Constants of PQ.
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def is_hdr(frame: av.VideoFrame) -> bool:
    """Return whether a frame is in PQ or HLG."""
    return frame.color_trc in (PQ, HLG)


def to_sdr(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """Convert an HDR frame to a uint8 RGB array of shape (height, width, 3) with the primaries of BT.709."""
    signal = reformatter.reformat(frame, format="rgb48le", threads=1).to_ndarray()
    light = _light_table(int(frame.color_trc))[signal]
    if frame.color_primaries == BT2020:
        light = light @ BT2020_TO_BT709.T
    return _signal_table()[(light.clip(0, 1) * 65535 + 0.5).astype(np.uint16)]


@functools.cache
def _light_table(transfer_function: int) -> np.ndarray:
    """Return the light on an SDR screen for each 16-bit HDR signal: float32 of shape (65536,), from 0 to 1."""
    signal = np.arange(65536) / 65535
    if transfer_function == HLG:
        a = 0.17883277
        b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
        scene_light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        signal = _to_pq(HDR_PEAK * scene_light**1.2)
    return (_from_pq(_roll_off(signal)) / SDR_WHITE).clip(0, 1).astype(np.float32)


@functools.cache
def _signal_table() -> np.ndarray:
    """Return the 8-bit SDR signal, of gamma 2.4 (ITU-R BT.1886), for each 16-bit light: uint8 of shape (65536,)."""
    return (255 * (np.arange(65536) / 65535) ** (1 / 2.4) + 0.5).astype(np.uint8)


def _roll_off(signal: np.ndarray) -> np.ndarray:
    """Compress a PQ signal from the range of HDR to that of SDR: unchanged up to a knee, then along a spline."""
    hdr_peak, sdr_peak = float(_to_pq(np.array(HDR_PEAK))), float(_to_pq(np.array(SDR_WHITE)))
    sdr_peak /= hdr_peak
    signal = (signal / hdr_peak).clip(0, 1)
    knee = 1.5 * sdr_peak - 0.5
    t = (signal - knee).clip(0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * sdr_peak
    return np.where(signal < knee, signal, spline) * hdr_peak


def _to_pq(light: np.ndarray) -> np.ndarray:
    """Convert light in candela per square metre to a PQ signal from 0 to 1."""
    power = (light / 10000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


def _from_pq(signal: np.ndarray) -> np.ndarray:
    """Convert a PQ signal from 0 to 1 to light in candela per square metre."""
    power = signal ** (1 / _M2)
    return 10000 * ((power - _C1).clip(0) / (_C2 - _C3 * power)) ** (1 / _M1)
