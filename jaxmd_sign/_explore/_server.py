"""The explorer's server: static files and two kinds of answers, to this machine only.

It binds to 127.0.0.1, answers under that name only (else a name that an attacker owns and rebinds
would do), refuses what other sites' scripts ask for, and changes nothing. No input is evaluated.
"""

import contextlib
import os
import socket
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._report import to_json
from ._answers import answer_case, answer_curve, read
from ._heat_map import heat_map
from ._programs import compile_ahead

HOST = "127.0.0.1"
_PAGE = Path(__file__).parent / "page"
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class _OwnPagesOnly:
    """ASGI middleware: refuse requests by other sites' pages, and guard the answers by headers."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        asked = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        site, mode = asked.get("sec-fetch-site"), asked.get("sec-fetch-mode")
        if site not in (None, "same-origin", "none") and mode != "navigate":
            refusal = PlainTextResponse("Refused: asked for by another site.", 403)
            return await refusal(scope, receive, send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        await self.app(scope, receive, guarded)


def make_app(store: str | None = None) -> Starlette:
    """The page and its answers; `store` is the path of a sweep's store."""

    def case(request: Request) -> Response:
        return _json(lambda: answer_case(read(request.query_params)))

    def curve(request: Request) -> Response:
        return _json(lambda: answer_curve(read(request.query_params, curve=True)))

    def heat(request: Request) -> Response:
        return _json(lambda: {} if store is None else heat_map(store))

    return Starlette(
        routes=[
            Route("/case", case),
            Route("/curve", curve),
            Route("/store", heat),
            Mount("/", StaticFiles(directory=_PAGE, html=True)),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
            Middleware(_OwnPagesOnly),
        ],
    )


def _json(answer: Callable[[], dict[str, Any]]) -> Response:
    """The answer, or what is wrong with the question in one line."""
    try:
        text = to_json(answer())
    except ValueError as error:
        text = to_json({"error": " ".join(str(error).split())})
    return Response(text, media_type="application/json")


def make_server(app: Starlette) -> uvicorn.Server:
    """A quiet server; `run(sockets=[...])` serves."""
    config = uvicorn.Config(
        app, log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    return uvicorn.Server(config)


def bind(port: int) -> socket.socket:
    """A socket on this machine; any free port if 0."""
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535, but is {port}.")
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ValueError(
            f"port {port} cannot be used ({reason}). Give another, or leave it out."
        ) from None


def explore(store: str | None, port: int, browser: bool, say: Callable[[str], None]) -> NoReturn:
    """Serve until interrupted, then end the process."""
    if store is not None:
        heat_map(store)  # complain before the page opens
    with bind(port) as bound:
        url = f"http://{HOST}:{bound.getsockname()[1]}"
        compile_ahead()
        say(f"{url} (Ctrl-C ends it)")
        if browser:
            webbrowser.open(url)
        with contextlib.suppress(KeyboardInterrupt):
            make_server(make_app(store)).run(sockets=[bound])
    # Not by the usual way out, which a thread that is compiling would abort.
    os._exit(0)
