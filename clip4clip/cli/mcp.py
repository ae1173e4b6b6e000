"""The command ``mcp``: let an assistant search an index."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from .console import err
from .index_options import IndexEncoderOptions, IndexOptions
from .progress import INTERRUPTED


def mcp(*, address: IndexOptions, encoder: IndexEncoderOptions) -> None:
    """Let an assistant search an index (Model Context Protocol).

    The assistant starts this command by itself, once its settings name it, and
    talks to it over standard input and output. It can search videos by a
    sentence, and find moments that are similar to one. It cannot change
    anything. The command ends when the assistant does.

    Examples:
        clip4clip mcp --uri /srv/videos.db
    """
    with err.status("opening the index"):
        from ..mcp_server import make_server

        videos = address.open(encoder.spec())
    signal.signal(signal.SIGINT, _stop)
    with videos:
        make_server(videos).run("stdio")


def _stop(*_: object) -> NoReturn:
    """End the process on Ctrl-C. The thread that waits for input would keep it alive until there is some."""
    err.print("[red]error[/] stopped", highlight=False)
    os._exit(INTERRUPTED)
