"""The status line and the results of a search as HTML, and error messages that are safe to show to visitors."""

from __future__ import annotations

import html
import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from ..errors import (
    Clip4clipError,
    IndexUnavailableError,
    InputTypeError,
    InputValueError,
    VideoError,
    VideoNotFoundError,
)
from ..index.hit import Hit
from ..video.source import is_url

logger = logging.getLogger(__name__)

SEARCH_FAILED = "The search failed. The log of the server says more."


def status_html(text: str, link: str | None = None, is_error: bool = False) -> str:
    """Return the status line: a text and, if there is a ``link`` to this search, the link."""
    attributes = 'role="alert" class="error"' if is_error else 'role="status"'
    anchor = f' <a href="{html.escape(link)}">link to this search</a>' if link else ""
    return f"<div {attributes}>{html.escape(text)}{anchor}</div>"


def results_html(hits: Sequence[Hit]) -> str:
    """Return the list of results, best first."""
    return f'<ol class="hits">{"".join(map(_result_html, hits))}</ol>'


def _result_html(hit: Hit) -> str:
    name = html.escape(Path(hit.path).name or str(hit.id))
    if is_url(hit.path):
        source, preview, backdrop = html.escape(hit.path), 'preload="metadata"', ""
    else:
        query = quote(str(hit.id), safe="")
        source, poster = f"library/video?id={query}", f"library/poster?id={query}"
        preview, backdrop = f'preload="none" poster="{poster}"', f"--poster: url('{poster}')"
    if hit.time_range and "#" not in source:
        source += f"#t={hit.start:.3f},{hit.end:.3f}"  # a media fragment: browsers play only this range
    length = f'<span class="length">{hit.time_range or hit.length}</span>' if hit.time_range or hit.length else ""
    return f"""
        <li>
            <div class="stage" style="{backdrop}">
                <video controls playsinline loop {preview} src="{source}" aria-label="{name}"
                       onplay="onVideoPlay(this)"></video>
                <span class="play" aria-hidden="true" onclick="playVideo(this.previousElementSibling)"></span>
            </div>
            <div class="caption">
                <span class="name" title="{html.escape(hit.path)}">
                    <a href="{source}" target="_blank" rel="noopener noreferrer">{name}</a>
                </span>
                {length}
                <span class="score" title="similarity, at most 1">{hit.score:.3f}</span>
            </div>
        </li>"""


def visitor_message(error: Clip4clipError) -> str:
    """Return an error message that is safe to show to a visitor.

    Errors about the visitor's own query are quoted. Others are logged, as they may name paths and addresses of this
    machine.
    """
    if isinstance(error, InputTypeError | InputValueError | VideoError | VideoNotFoundError):
        return f"That did not work: {error}."
    logger.error("%s", error)
    if isinstance(error, IndexUnavailableError):
        return "The index does not answer at the moment. Please try again in a minute."
    return SEARCH_FAILED
