"""The page itself: a search box, two buttons, a status line and the results, built with Gradio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import MissingExtraError
from .results import status_html
from .search import EMPTY_QUERY, MAX_QUERY, Answer, Search

try:
    import gradio as gr
except ImportError as error:
    raise MissingExtraError("the page needs gradio: pip install 'towhee-clip4clip[retrieval]'") from error

STYLES = Path(__file__).with_name("page.css")
SCRIPTS = Path(__file__).with_name("page.js")


def build_page(search: Search) -> gr.Blocks:
    """Return the page, whose events call ``search``."""
    with gr.Blocks(title="clip4clip", analytics_enabled=False, fill_width=True) as page:
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
            button = gr.Button("Search", variant="primary", elem_id="go", scale=1, min_width=100)
            clip = gr.UploadButton("Search by a clip", file_types=["video"], elem_id="clip", scale=1, min_width=190)
        status = gr.HTML(status_html(EMPTY_QUERY), elem_id="status")
        results = gr.HTML(elem_id="hits")
        _connect_events(page, search, query, button, clip, [status, results])
    return page


def _connect_events(
    page: gr.Blocks,
    search: Search,
    query: gr.Textbox,
    button: gr.Button,
    clip: gr.UploadButton,
    outputs: list[gr.HTML],
) -> None:
    async def search_by_clip(file: dict[str, Any] | None) -> tuple[str, str, str]:
        """Return an empty text for the search box, and the answer."""
        answer = Answer(status_html(EMPTY_QUERY)) if file is None else await search.by_clip(Path(file["path"]))
        return "", *answer

    async def search_on_load(request: gr.Request) -> tuple[Any, ...]:
        """Search for the query in the address, if there is one."""
        text = request.query_params.get("q", "")
        return await search.by_text(text) if text else (gr.skip(), gr.skip())

    # No queue: each answer is a response of its own. Gradio's queue loses a request that arrives while it closes the
    # stream of the previous answer.
    options: dict[str, Any] = {
        "queue": False,
        "show_progress": "minimal",
        "show_progress_on": [outputs[0]],
        "api_visibility": "private",
    }
    for event in (query.submit, button.click):
        event(search.by_text, query, outputs, **options)
        event(None, query, None, js="showQueryInAddress", api_visibility="private")
    clip.upload(search_by_clip, clip, [query, *outputs], preprocess=False, **options)  # Gradio would keep a copy
    clip.upload(None, None, None, js="() => showQueryInAddress('')", api_visibility="private")
    page.load(search_on_load, None, outputs, **options)
    page.load(None, None, None, js="openPage", api_visibility="private")


def build_theme() -> gr.themes.Base:
    """Return Gradio's theme with readable contrast and with fonts of the visitor's machine, so that none is fetched."""
    return gr.themes.Default(
        primary_hue="blue",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_text_color_subdued="*neutral_600",  # Gradio's own colours are too pale
        body_text_color_subdued_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )
