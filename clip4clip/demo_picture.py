"""The picture of the demo: sentences, and what was found for them."""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .demo import BEST, Demo, Moments
from .files import atomic_write
from .index.hit import format_time
from .video.reader import read_frames

# Sizes in the picture, in pixels.
_WIDTH, _MARGIN, _HEADER_HEIGHT = 1180, 28, 92
_TEXT_WIDTH, _TEXT_CHARACTERS = 270, 28
_FRAMES, _FRAME_SIZE, _FRAME_GAP = 7, 92, 2  # a film strip
_STRIP_WIDTH, _STRIP_GAP = _FRAMES * (_FRAME_SIZE + _FRAME_GAP), 10
_ROW_HEIGHT = BEST * (_FRAME_SIZE + _STRIP_GAP) + 26
_BAR_HEIGHT, _LINE_HEIGHT = 52, 124  # of the bars of a time line, and of a sentence with its time line

_TEXT_COLOUR, _FAINT_COLOUR, _RULE_COLOUR = "#1d2733", "#7a8694", "#e3e7eb"
_MATCH_COLOUR, _BAR_COLOUR, _STRIP_COLOUR = "#1f9d55", "#c9d3dd", "#20262d"


def save_picture(demo: Demo, path: Path) -> None:
    """Write a PNG: the best clips for some sentences, and a time line of the longer video for others."""
    sentences, moments = demo.sentences_to_show(), demo.moments.sentences_to_show()
    clips_height = _HEADER_HEIGHT + len(sentences) * _ROW_HEIGHT
    moments_height = _HEADER_HEIGHT + _FRAME_SIZE + 2 * _STRIP_GAP + len(moments) * _LINE_HEIGHT
    picture = Image.new("RGB", (_WIDTH, clips_height + moments_height + _MARGIN), "white")
    _draw_header(
        picture,
        0,
        "Which clip is it?",
        f"The best {BEST} of {len(demo.clips)} clips for a sentence. The clip that it describes has a green frame.",
    )
    for row, sentence in enumerate(sentences):
        _draw_sentence(picture, demo, sentence, _HEADER_HEIGHT + row * _ROW_HEIGHT)
    _draw_header(
        picture,
        clips_height,
        "Where in the video is it?",
        f"A video of {format_time(demo.moments.segments[-1, 1])}. The higher a bar, the nearer its moment to the "
        "sentence; the nearest is coloured. The green line is the moment that the sentence describes.",
    )
    top = clips_height + _HEADER_HEIGHT
    _draw_film_strip(picture, demo.moments.video, _MARGIN + _TEXT_WIDTH, top, is_match=False)
    top += _FRAME_SIZE + 2 * _STRIP_GAP
    for row, sentence in enumerate(moments):
        _draw_time_line(picture, demo.moments, sentence, top + row * _LINE_HEIGHT)
    with atomic_write(path) as temporary:
        picture.save(temporary, "PNG", optimize=True)


def _draw_header(picture: Image.Image, top: int, title: str, explanation: str) -> None:
    pen = ImageDraw.Draw(picture)
    pen.text((_MARGIN, top + 22), title, _TEXT_COLOUR, ImageFont.load_default(25))
    pen.text((_MARGIN, top + 56), explanation, _FAINT_COLOUR, ImageFont.load_default(14))


def _draw_sentence(picture: Image.Image, demo: Demo, sentence: int, top: int) -> None:
    """Draw a sentence and its best clips below the y coordinate ``top``."""
    _draw_text(picture, demo.sentences[sentence], top)
    pen = ImageDraw.Draw(picture)
    for rank, clip in enumerate(demo.best(sentence, BEST), 1):
        y = top + (rank - 1) * (_FRAME_SIZE + _STRIP_GAP)
        is_match = clip == demo.matches[sentence]
        _draw_film_strip(picture, demo.clips[clip], _MARGIN + _TEXT_WIDTH, y, is_match)
        _draw_score(pen, rank, float(demo.similarity[sentence, clip]), demo.clips[clip].stem, y, is_match)


def _draw_text(picture: Image.Image, sentence: str, top: int) -> None:
    """Draw a rule, and a sentence below it."""
    pen = ImageDraw.Draw(picture)
    pen.line((_MARGIN, top - 10, _WIDTH - _MARGIN, top - 10), _RULE_COLOUR, 2)
    lines = textwrap.wrap(f"“{sentence}”", _TEXT_CHARACTERS)
    pen.multiline_text((_MARGIN, top + 8), "\n".join(lines), _TEXT_COLOUR, ImageFont.load_default(17), spacing=7)


def _draw_film_strip(picture: Image.Image, clip: Path, x: int, y: int, is_match: bool) -> None:
    """Draw frames of a clip side by side, with a green frame around them if the clip is the match."""
    width = _STRIP_WIDTH + _FRAME_GAP
    pen = ImageDraw.Draw(picture)
    if is_match:
        pen.rounded_rectangle((x - 4, y - 4, x + width + 3, y + _FRAME_SIZE + 5), 5, _MATCH_COLOUR)
    pen.rectangle((x, y, x + width - 1, y + _FRAME_SIZE + 1), _STRIP_COLOUR)
    for index, frame in enumerate(read_frames(clip, _FRAMES)):
        thumbnail = Image.fromarray(frame.rgb).resize((_FRAME_SIZE, _FRAME_SIZE), Image.Resampling.LANCZOS)
        picture.paste(thumbnail, (x + _FRAME_GAP + index * (_FRAME_SIZE + _FRAME_GAP), y + 1))


def _draw_score(pen: ImageDraw.ImageDraw, rank: int, score: float, name: str, y: int, is_match: bool) -> None:
    """Draw the rank, the score as a number and as a bar, and the name of a clip, to the right of its film strip."""
    x = _MARGIN + _TEXT_WIDTH + _STRIP_WIDTH + 22
    font, small_font = ImageFont.load_default(17), ImageFont.load_default(14)
    length = round(100 * max(0.0, score))
    pen.text((x, y + 12), f"{rank}.", _TEXT_COLOUR, font)
    pen.text((x + 28, y + 12), f"{score:.3f}", _MATCH_COLOUR if is_match else _TEXT_COLOUR, font)
    pen.rectangle((x, y + 46, x + 100, y + 54), _RULE_COLOUR)
    pen.rectangle((x, y + 46, x + length, y + 54), _MATCH_COLOUR if is_match else _BAR_COLOUR)
    pen.text((x, y + 64), name, _FAINT_COLOUR, small_font)


def _draw_time_line(picture: Image.Image, moments: Moments, sentence: int, top: int) -> None:
    """Draw a sentence, and beside it a bar for each segment of the video, with the right moment marked."""
    _draw_text(picture, moments.sentences[sentence], top)
    pen = ImageDraw.Draw(picture)
    left, bottom = _MARGIN + _TEXT_WIDTH, top + 14 + _BAR_HEIGHT
    pixels_per_second = _STRIP_WIDTH / moments.segments[-1, 1]
    found = moments.found(sentence)
    colour = _MATCH_COLOUR if moments.is_right(sentence) else _TEXT_COLOUR
    for segment, (start, end) in enumerate(moments.segments):
        height = max(2, round(_BAR_HEIGHT * float(moments.similarity[sentence, segment])))
        x, next_x = (round(left + time * pixels_per_second) for time in (start, end))
        fill = colour if segment == found else _BAR_COLOUR
        pen.rectangle((x, bottom - height, max(x, next_x - 2), bottom), fill)
    start, end = (round(left + time * pixels_per_second) for time in moments.scenes[sentence])
    pen.rectangle((left, bottom + 8, left + _STRIP_WIDTH, bottom + 11), _RULE_COLOUR)
    pen.rectangle((start, bottom + 8, end - 2, bottom + 11), _MATCH_COLOUR)
    x = left + _STRIP_WIDTH + 22
    times = "-".join(format_time(time) for time in moments.segments[found])  # Pillow's font has no dash
    pen.text((x, top + 12), times, colour, ImageFont.load_default(17))
    pen.text((x, top + 40), f"{moments.similarity[sentence, found]:.3f}", colour, ImageFont.load_default(17))
