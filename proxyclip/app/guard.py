"""What every request has to pass, and the headers of every answer."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Parts of Gradio's interface that the page does not use: files on disk, and requests to other servers.
CLOSED = ("upload", "file", "proxy", "stream", "component_server", "deep_link", "runs")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Turns away what the page never asks for, and requests that other sites make through someone's browser."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if closed(scope["path"]):
            return await PlainTextResponse("not found", 404)(scope, receive, send)
        if foreign(Headers(scope=scope)):
            return await PlainTextResponse("requests from other sites are refused", 403)(scope, receive, send)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        return await self.app(scope, receive, with_headers)


def closed(path: str) -> bool:
    folder, _, rest = path.lstrip("/").partition("/")
    return folder == "gradio_api" and rest.startswith(CLOSED)


def foreign(headers: Headers) -> bool:
    """Whether a page of another origin sent the request: browsers say so."""
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")
