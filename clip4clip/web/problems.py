"""Errors as the API answers them: problem details (RFC 9457) whose sentences are safe to show to visitors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from ..errors import (
    Clip4clipError,
    FilterError,
    IndexUnavailableError,
    InputTypeError,
    InputValueError,
    MissingExtraError,
    VideoError,
    VideoNotFoundError,
    brief,
    printable,
)

try:
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Match
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

from .schemas import Problem

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
FAILED = "The server could not do this. Its log says more."
DISK_FULL = "The clip cannot be stored: the server's disk may be full."
UNAVAILABLE = "The index does not answer at the moment. Try again in a minute."

DESCRIPTIONS = {
    400: "The query, the filter or the clip is not valid.",
    401: "A user name and a password are required.",
    403: "The request comes from another website.",
    404: "The index has no such video, or its file has gone.",
    405: "The address does not take this method.",
    408: "The request did not arrive in time.",
    413: "The request is too large.",
    416: "The file has no such range of bytes.",
    421: "The server is not known by this name.",
    422: "A parameter is not valid.",
    431: "The address or the headers are too long.",
    500: "The server could not do this.",
    503: "The index does not answer, or the server has too much to do.",
    507: "The server's disk is full.",
}
ALWAYS = (400, 401, 403, 413, 421, 422, 431, 500, 503)  # what every address may answer


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as a response.

    Args:
        status: HTTP status.
        detail: a sentence that says what to do.
        headers: further headers.
    """
    content = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return Response(content.model_dump_json(), status, headers, MEDIA_TYPE)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the declaration of errors for FastAPI: of these, and of those that every address may answer."""
    return {status: {"model": Problem, "description": DESCRIPTIONS[status]} for status in sorted({*ALWAYS, *statuses})}


def visitor_problem(error: Clip4clipError) -> tuple[int, str]:
    """Return the status and the sentence that a visitor gets for an error.

    Errors about the visitor's own query are quoted. Others are logged, as they may name paths and addresses of this
    machine.
    """
    if isinstance(error, FilterError | InputTypeError | InputValueError | VideoError | VideoNotFoundError):
        return 400, as_sentence(printable(str(error), "\n"))
    logger.error("%s", error)
    return (503, UNAVAILABLE) if isinstance(error, IndexUnavailableError) else (500, FAILED)


def as_sentence(text: str) -> str:
    """Return a message with a full stop. The pointer below a filter gets none."""
    return text if text.endswith((".", "^", "!", "?")) else f"{text}."


def handle_problems(app: FastAPI) -> None:
    """Answer every error of an application as a problem."""
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_parameter)
    app.add_exception_handler(Clip4clipError, _on_own_error)
    app.add_exception_handler(Exception, _on_unexpected_error)


# The handlers are coroutines, as Starlette would run other functions in threads of its own.
async def _on_invalid_parameter(_: Request, error: Any) -> Response:
    return problem(422, describe_invalid(error.errors()))


async def _on_own_error(_: Request, error: Any) -> Response:
    return problem(*visitor_problem(error))


async def _on_unexpected_error(*_: object) -> Response:
    return problem(500, FAILED)  # Starlette raises the error again, so that the server logs it


async def _on_http_error(request: Request, error: Any) -> Response:
    path, detail = request.url.path, error.detail
    if detail == HTTPStatus(error.status_code).phrase:  # Starlette's own, which says nothing more
        detail = {
            404: f"There is nothing at {path}. See /api for the addresses of this server.",
            405: f"{path} does not take {request.method}. See /api for what it takes.",
        }.get(error.status_code, as_sentence(detail))
    headers = {"Allow": _allowed_methods(request)} if error.status_code == 405 else error.headers
    return problem(error.status_code, detail, headers)


def _allowed_methods(request: Request) -> str:
    """Return the methods of an address. Starlette names only those of the first of its functions."""

    def takes(method: str) -> bool:
        scope = dict(request.scope) | {"method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return ", ".join(filter(takes, ("GET", "HEAD", "POST")))


def describe_invalid(errors: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence about the first parameter that is not valid: its name, its value, and what is allowed."""
    place = errors[0]["loc"][:2]
    same = [each for each in errors if each["loc"][:2] == place]
    name = str(place[-1])
    if errors[0]["type"] == "json_invalid":
        return f"The body is not valid JSON: {errors[0]['ctx']['error']}."
    if errors[0]["type"] == "missing":
        return f"{name} is missing: it is required."
    rules = dict.fromkeys(
        each["msg"]
        .removeprefix("Value error, ")
        .replace("Input should", "it should")
        .replace("String should", "it should")
        for each in same
    )
    return as_sentence(f"{name} is {brief(errors[0]['input'])}: {', or '.join(rules)}")
