"""The command ``serve``: the web page for searching an index, and its API."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import err
from .index_options import IndexEncoderOptions, IndexOptions
from .output import print_summary


def serve(
    *,
    address: IndexOptions,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. 0.0.0.0 lets other machines connect: then set --user and --password."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 7860,
    user: Annotated[
        str | None,
        typer.Option(envvar="CLIP4CLIP_USER", help="User name that visitors must enter, together with --password."),
    ] = None,
    password: Annotated[
        str | None,
        typer.Option(envvar="CLIP4CLIP_PASSWORD", help="Password that visitors must enter, together with --user."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Another host name that visitors use, such as that of a proxy. Repeat the option for several names.",
        ),
    ] = None,
    encoder: IndexEncoderOptions,
) -> None:
    """Serve a web page for searching an index, and its API.

    Visitors can fetch only videos that are in the index. The address /api
    describes the API. The page is served over HTTP: to serve other machines,
    also put it behind a proxy that adds HTTPS, or else passwords are sent
    unencrypted.

    Examples:
        clip4clip serve
        clip4clip serve --uri http://localhost:19530 --port 8080
    """
    if (user is None) != (password is None):
        raise typer.BadParameter("--user and --password go together", param_hint="--user")
    if user == "" or password == "":  # such as the value of a variable that is not set
        raise typer.BadParameter("--user and --password must not be empty", param_hint="--user")
    with err.status("opening the index"):
        from ..web.server import run_page

        videos = address.open(encoder.spec())
    with videos:
        run_page(
            videos,
            host,
            port,
            (user, password) if user is not None and password is not None else None,
            lambda url: print_summary(f"open {url} (Ctrl-C stops)"),
            allowed_host or (),
        )
