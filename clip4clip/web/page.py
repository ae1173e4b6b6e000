"""The page: a search box over an index, in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import html
import io
import logging
import mimetypes
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from PIL import Image

from ..errors import (
    Clip4clipError,
    IndexUnavailableError,
    InputTypeError,
    InputValueError,
    MissingExtraError,
    VideoError,
    VideoNotFoundError,
    first_line,
)
from ..evaluation.video_folder import VIDEO_EXTENSIONS
from ..index.hit import Hit
from ..index.video_index import VideoIndex
from ..video.container import Container
from ..video.limits import Limits
from ..video.reader import read_frames
from ..video.source import is_url
from .access import AllowlistMiddleware, BasicAuthMiddleware, SameSiteMiddleware, SecurityHeadersMiddleware
from .uploads import MAX_UPLOAD, TimedFile, Uploads
from .workers import Workers

try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import FileResponse, PlainTextResponse, Response
except ImportError as error:
    raise MissingExtraError("the page needs gradio: pip install 'towhee-clip4clip[retrieval]'") from error

logger = logging.getLogger(__name__)

SHOWN = 12  # results: whole rows of two, three and four
MAX_QUERY = 2000  # characters
TEXTS_AT_ONCE = 4  # searches by a sentence; others wait
CLIPS_AT_ONCE = 2  # searches by a clip, which keep no other search waiting
LOOKUPS_AT_ONCE = 4  # videos looked up in the index, and pictures made of them
MAX_CLIP_SECONDS = 600  # of video in a clip
# 4K; an hour at 60 frames a second, as such a clip may have more than it says; about a minute of decoding.
CLIP_LIMITS = Limits(pixels=4096 * 2304, frames=250_000, decoded_pixels=16e9)
CLIP_TIMEOUT = 60  # seconds until a search by a clip has an answer, those included that it waits
SHUTDOWN_TIMEOUT = 5  # seconds that open connections have when the page is stopped
POSTER_WIDTH = 480
POSTERS_KEPT = 1000

NOTHING_ASKED = "Type what the video shows, or search by a clip of your own."
OUT_OF_TIME = f"the search was not done within {CLIP_TIMEOUT} seconds. Please try a shorter or smaller clip"

# The address bar carries the query, so that a search can be sent to somebody.
KEEP_QUERY = """(query) => {
    const url = new URL(window.location);
    if (query) url.searchParams.set('q', query); else url.searchParams.delete('q');
    window.history.replaceState(null, '', url);
}"""

# Of the box: its text from the address, and the focus. As an output of an event, and by Gradio's own autofocus, it
# would draw the focus to itself again and again, from whoever goes on by keyboard.
ARRIVE = """() => {
    const query = new URL(window.location).searchParams.get('q'), box = document.querySelector('#query textarea');
    if (query && !box.value) { box.value = query; box.dispatchEvent(new Event('input')); }
    box.focus();
}"""

# One video at a time: several voices at once are none.
PLAYED = (
    "this.parentNode.classList.add('played');"
    "document.querySelectorAll('.hits video').forEach(other => other === this || other.pause())"
)
PLAY = "this.previousElementSibling.play(); this.previousElementSibling.focus()"

CSS = """
.gradio-container .fillable {padding: 0 1rem !important}
.gradio-container main {width: 100%; max-width: 1180px !important; margin: 0 auto !important;
                        padding: 0 0 2.5rem !important; gap: 1rem}
.html-container {padding: 0 !important}
#title h1 {font-size: clamp(1.2rem, 5.4vw, 1.75rem); line-height: 1.25; margin: 2.2rem 0 .15rem; letter-spacing: -.01em}
#title p {margin: 0 0 .4rem; color: var(--body-text-color-subdued)}
/* One line of things alike in height; on a phone the sentence has a line of its own. */
#ask {gap: .6rem; align-items: stretch}
#ask button {min-height: 3rem; padding: 0 1.2rem; font-size: 1rem}
#query {border: 1px solid var(--neutral-500); border-radius: var(--button-large-radius)}
#query:focus-within {border-color: var(--color-accent); box-shadow: 0 0 0 2px var(--color-accent)}
#query textarea {font-size: 1.1rem; line-height: 1.5; min-height: 3rem; padding: .7rem .9rem}
@media (max-width: 700px) {#query {flex: 1 0 100% !important}}
#status {min-height: 1.6rem}
#status [role] {display: flex; flex-wrap: wrap; gap: 0 .8em}
#status a {padding: 0; color: inherit; text-decoration: underline}
#status .wrong {color: var(--error-text-color, #b91c1c); font-weight: 600}
.hits {list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem;
       grid-template-columns: repeat(auto-fill, minmax(min(100%, 260px), 1fr))}
.hits li {margin: 0 !important; padding: 0; border: 1px solid var(--border-color-primary); border-radius: 10px;
          overflow: hidden; background: var(--block-background-fill)}
.hits li:focus-within {border-color: var(--color-accent); box-shadow: 0 0 0 2px var(--color-accent)}
/* What a picture of another shape leaves free is filled with itself, out of focus. */
.hits .stage {position: relative; overflow: hidden; background: #1d2127}
.hits .stage::before {content: ""; position: absolute; inset: -1.5rem; background: var(--poster) center/cover;
                      filter: blur(14px) brightness(.62)}
.hits video {display: block; position: relative; width: 100%; aspect-ratio: 16/9; object-fit: contain}
.hits .stage.played {background: #000}
.hits .stage.played::before {content: none}
/* Until a video is played its controls, which dim it, come with the keyboard's focus alone; a click plays it. */
.hits .stage:not(.played) video:not(:focus)::-webkit-media-controls {opacity: 0}
.hits .play {position: absolute; inset: 0; cursor: pointer}
.hits .play::before {content: ""; position: absolute; left: .6rem; bottom: .6rem; width: 2.5rem; height: 2.5rem;
                     border-radius: 50%; background: #000c; box-shadow: 0 0 0 1.5px #fffb}
.hits .play::after {content: ""; position: absolute; left: 1.5rem; bottom: 1.35rem; width: .85rem; height: 1rem;
                    background: #fff; clip-path: polygon(0 0, 100% 50%, 0 100%)}
.hits .play:hover::before {background: var(--button-primary-background-fill)}
.hits .played .play, .hits video:focus + .play {display: none}
.hits .told {display: flex; gap: .6rem; align-items: baseline; padding: .55rem .75rem .65rem; font-size: .92rem}
.hits .name {flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap}
#hits .name a {padding: 0; color: inherit; text-decoration: none}
#hits .name a:hover, #hits .name a:focus-visible {text-decoration: underline}
.hits .length, .hits .score {color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums}
.hits .score {font-weight: 600; color: var(--body-text-color)}
"""


def run_page(
    index: VideoIndex,
    host: str = "127.0.0.1",
    port: int = 7860,
    login: tuple[str, str] | None = None,
    ready: Callable[[str], object] = print,
    allowed_hosts: Iterable[str] = (),
) -> None:
    """Serves the page until Ctrl-C or SIGTERM; from the main thread.

    Args:
        index: to search.
        host: address to listen on; 127.0.0.1 is this machine alone.
        port: to listen on; 0 takes a free one.
        login: user and password to ask for.
        ready: is told the page's address once it can be opened.
        allowed_hosts: host names by which it is reached besides loopback names and ``host``, such as that of a proxy;
            requests under any other name are refused. See :class:`clip4clip.web.access.SameSiteMiddleware`.

    Raises:
        InputValueError: when one of ``allowed_hosts`` is not a host name.
        VideoIndexError: when the index cannot be searched with this model; see :meth:`VideoIndex.search`.
        OSError: when the port is taken, or ``host`` is not an address of this machine.
    """
    index.search("a video", limit=1)  # loads the model, and tells now what would be wrong with every search
    with tempfile.TemporaryDirectory(prefix="clip4clip-page-") as uploads, _listen(host, port) as listening:
        app: Any = make_app(index, Path(uploads))
        if login is not None:
            app = BasicAuthMiddleware(app, *login)
        app = SecurityHeadersMiddleware(SameSiteMiddleware(app, listening.getsockname()[0], allowed_hosts))
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_TIMEOUT, server_header=False)
        )
        logging.getLogger("uvicorn.error").addFilter(_is_no_farewell)
        ready(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # that is to leave nothing behind either
        with contextlib.suppress(KeyboardInterrupt):  # which comes when all connections are closed
            server.run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """A socket on which connections wait until the page accepts them."""
    listening = None
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except (OSError, UnicodeError) as error:  # UnicodeError: the name has an empty or too long part
        if listening is not None:
            listening.close()
        reason = getattr(error, "strerror", None) or first_line(error)
        raise OSError(
            f"the page cannot listen at {host!r}, port {port}: {reason}. Use an address of this machine and a free port"
        ) from error
    return listening


def _is_no_farewell(record: logging.LogRecord) -> bool:
    """Whether it tells of something else than a connection that was closed because the page stops."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def make_app(index: VideoIndex, uploads: Path) -> FastAPI:
    """The page and the videos it shows, as a web application without a login.

    Args:
        index: to search.
        uploads: folder for the clips that are searched by, each of which is deleted once it is embedded.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    clips, lookups = Uploads(uploads), Workers(LOOKUPS_AT_ONCE)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def library(request: Request) -> Response:
        """A video of the index, or a picture of it; the path is the index's and never the visitor's."""
        try:
            hit = await lookups.run(index.get, request.query_params.get("id", ""))
        except InputValueError:  # no key of this collection
            hit = None
        except Clip4clipError as error:
            return PlainTextResponse(_sentence(error), 503)
        if hit is None or not _is_video(hit.path):
            return PlainTextResponse("there is no such video", 404)
        if request.url.path.endswith("/poster"):
            picture = await lookups.run(_poster, hit.path, hit.fields.get("mtime"))
            kept = {"Cache-Control": "private, max-age=3600"}
            return Response(picture, media_type="image/jpeg", headers=kept) if picture else Response(status_code=404)
        kind = mimetypes.guess_type(hit.path)[0] or ""
        # Nothing is to be run that lies among the videos.
        safe = kind if kind.startswith("video/") else "application/octet-stream"
        return FileResponse(hit.path, media_type=safe)

    app.add_api_route("/library/video", library, methods=["GET", "HEAD"], response_model=None)
    app.add_api_route("/library/poster", library, methods=["GET"], response_model=None)
    app.add_api_route("/gradio_api/upload", clips.receive, methods=["POST"], response_model=None)  # before Gradio's own
    app.add_middleware(AllowlistMiddleware, uploads=clips)
    theme = gr.themes.Default(
        primary_hue="blue",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],  # of the machine: none is fetched
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_text_color_subdued="*neutral_600",  # Gradio's own is too pale to be read by everybody
        body_text_color_subdued_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )
    return gr.mount_gradio_app(
        app,
        _blocks(index, clips),
        "/",
        theme=theme,
        css=CSS,
        footer_links=[],
        show_error=False,
        max_file_size=MAX_UPLOAD,
    )


def _blocks(index: VideoIndex, uploads: Uploads) -> gr.Blocks:
    texts, clips = Workers(TEXTS_AT_ONCE), Workers(CLIPS_AT_ONCE)

    async def by_text(query: str) -> tuple[str, str]:
        query = query.strip()
        if not query:
            return _status(NOTHING_ASKED), ""
        if len(query) > MAX_QUERY:
            return _status(f"That is longer than {MAX_QUERY} characters.", wrong=True), ""
        link = f"?{urlencode({'q': query})}"
        return await texts.run(lambda: _answer(index, f"“{query}”", link, text=query))

    async def by_clip(sent: dict[str, Any] | None) -> tuple[str, str, str]:
        if sent is None:
            return "", _status(NOTHING_ASKED), ""
        path, end = Path(sent["path"]), time.monotonic() + CLIP_TIMEOUT

        def search() -> tuple[str, str]:
            with TimedFile(path, end, OUT_OF_TIME) as clip:
                return _answer(index, f"the clip {path.name}", None, video=clip)

        try:
            return "", *await asyncio.wait_for(clips.run(search), CLIP_TIMEOUT)
        except asyncio.TimeoutError:
            return "", _status(f"{path.name}: {OUT_OF_TIME}.", wrong=True), ""
        except FileNotFoundError:
            return "", _status(f"{path.name} has been deleted. Please send it again.", wrong=True), ""
        finally:
            uploads.discard(path)

    async def arrive(request: gr.Request) -> tuple[Any, ...]:
        query = request.query_params.get("q", "")
        return await by_text(query) if query else (gr.skip(), gr.skip())

    with gr.Blocks(title="clip4clip", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML("<h1>Find videos by a sentence</h1><p>Say what is to be seen in them.</p>", elem_id="title")
        with gr.Row(elem_id="ask"):
            query = gr.Textbox(
                show_label=False,
                container=False,
                label="What the video shows",
                placeholder="kids feeding and playing with the horse",
                elem_id="query",
                scale=6,
                min_width=220,
                lines=1,
                max_lines=3,
                max_length=MAX_QUERY,
                html_attributes=gr.InputHTMLAttributes(enterkeyhint="search"),
            )
            go = gr.Button("Search", variant="primary", elem_id="go", scale=1, min_width=100)
            clip = gr.UploadButton("Search by a clip", file_types=["video"], elem_id="clip", scale=1, min_width=190)
        status = gr.HTML(_status(NOTHING_ASKED), elem_id="status")
        hits = gr.HTML(elem_id="hits")
        shown = [status, hits]
        # Each answer by itself: Gradio's queue loses what is asked while it closes the stream of the answer before.
        hidden: dict[str, Any] = {"queue": False, "show_progress": "minimal", "api_visibility": "private"}
        hidden["show_progress_on"] = [status]
        for event in (query.submit, go.click):
            event(by_text, query, shown, **hidden)
            event(None, query, None, js=KEEP_QUERY, api_visibility="private")
        clip.upload(by_clip, clip, [query, *shown], preprocess=False, **hidden)  # of which Gradio would keep a file
        clip.upload(None, None, None, js="() => (" + KEEP_QUERY + ")('')", api_visibility="private")
        blocks.load(arrive, None, shown, **hidden)
        blocks.load(None, None, None, js=ARRIVE, api_visibility="private")
    return blocks


def _answer(index: VideoIndex, what: str, link: str | None, **query: Any) -> tuple[str, str]:
    """Status and results of a search, as HTML."""
    began = time.perf_counter()
    try:
        if clip := query.get("video"):
            _check_length(clip)
            query["limits"] = CLIP_LIMITS
        hits = index.search(limit=SHOWN, **query)
        seconds = time.perf_counter() - began
        count = index.count()
    except Clip4clipError as error:
        told = _sentence(error)
        if clip:
            told = told.replace(clip.name, Path(clip.name).name)
        return _status(told, wrong=True), ""
    except Exception:
        logger.exception("a search failed")
        return _status("The search failed. The log of the server says more.", wrong=True), ""
    if not hits:
        return _status(f"No videos were found for {what}: the index has {count:,}."), ""
    told = f"{len(hits)} of {count:,} videos for {what}, in {1000 * seconds:.0f} ms"
    return _status(told, link), f'<ol class="hits">{"".join(map(_card, hits))}</ol>'


def _check_length(clip: TimedFile) -> None:
    with Container(clip, CLIP_LIMITS) as container:
        seconds = container.duration or 0
    if seconds > MAX_CLIP_SECONDS:
        raise VideoError(
            f"{clip.name}: it has {seconds:,.0f} seconds of video, and a clip to search by may have at most "
            f"{MAX_CLIP_SECONDS}. Cut it, or save less of it"
        )


def _sentence(error: Clip4clipError) -> str:
    """What a visitor is told: of what they have asked for, and nothing of where things lie on this machine."""
    if isinstance(error, InputTypeError | InputValueError | VideoError | VideoNotFoundError):
        return f"That did not work: {error}."
    logger.error("%s", error)
    if isinstance(error, IndexUnavailableError):
        return "The index does not answer at the moment. Please try again in a minute."
    return "The search failed. The log of the server says more."


def _status(text: str, link: str | None = None, wrong: bool = False) -> str:
    role, kind = ("alert", ' class="wrong"') if wrong else ("status", "")
    linked = f' <a href="{html.escape(link)}">link to this search</a>' if link else ""
    return f'<div role="{role}"{kind}>{html.escape(text)}{linked}</div>'


def _card(hit: Hit) -> str:
    name = html.escape(Path(hit.path).name or str(hit.id))
    query = quote(str(hit.id), safe="")
    if is_url(hit.path):
        source, picture, backdrop = html.escape(hit.path), 'preload="metadata"', ""
    else:
        source, poster = f"library/video?id={query}", f"library/poster?id={query}"
        picture, backdrop = f'preload="none" poster="{poster}"', f"--poster: url('{poster}')"
    clock = f'<span class="length">{hit.length}</span>' if hit.length else ""
    return (
        f'<li><div class="stage" style="{backdrop}"><video controls playsinline loop {picture} src="{source}"'
        f' onplay="{PLAYED}" aria-label="{name}"></video>'
        f'<span class="play" aria-hidden="true" onclick="{PLAY}"></span></div>'
        f'<div class="told"><span class="name" title="{html.escape(hit.path)}">'
        f'<a href="{source}" target="_blank" rel="noopener noreferrer">{name}</a></span>{clock}'
        f'<span class="score" title="similarity, at most 1">{hit.score:.3f}</span></div></li>'
    )


def _is_video(path: str) -> bool:
    """Whether a visitor may have it: what a row of an index names may be any file of this machine."""
    return os.path.isabs(path) and path.lower().endswith(VIDEO_EXTENSIONS) and os.path.isfile(path)


@functools.lru_cache(POSTERS_KEPT)
def _poster(path: str, mtime: int | None) -> bytes | None:  # noqa: ARG001  a changed file has another picture
    """A frame from the middle of a video, as JPEG; None when there is none to be had."""
    try:
        frame = next(read_frames(path, indices=lambda count: [count // 2], seek="keyframe"))
    except Clip4clipError:
        return None
    image = Image.fromarray(frame.rgb)
    image.thumbnail((POSTER_WIDTH, POSTER_WIDTH))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()
