"""The page behind `launch()`, and what every request has to pass before Gradio sees it."""

import json
import os
import re
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported: it reports its import otherwise

import anyio
import gradio as gr
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from proxyclip.app.models import Models
from proxyclip.app.page import THEME, build_page
from proxyclip.app.results import Limits, Results, inside

# What the page and `gradio_client` ask for. The rest of Gradio's interface fetches, converts or runs things for anyone.
OPEN = re.compile(
    r"/((config|theme\.css|login|logout|favicon\.ico|manifest\.json|robots\.txt)/?)?|/(assets|static|svelte)/.*|"
    r"/gradio_api/(upload|upload_progress|queue/(join|data)|run/predict|cancel|reset|heartbeat/\w+|info|app_id|"
    r"startup-events|theme\.css|login_check|token|user|call(/v2)?/segment(/\w+)?)/?"
)
FILE = "/gradio_api/file="
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'"
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
STATIC = ("/assets/", "/static/", "/svelte/")
JSON_BYTES = 2**18  # of a body that is no upload
MOST = {True: (4, 8), False: (100, 400)}  # uploads, and other requests, in progress: from one address, and in all
PATIENCE, RATE = 20, 100_000  # seconds, and bytes per second beyond them, in which a body must arrive
WINDOW, SHARE = 600, 4  # seconds in which one address may upload a quarter of the files that are held
ENTRY = 2**12  # bytes that a file takes beside its content, on disk or in a request


class RequestChecks:
    """ASGI middleware: what is open, and how large, slow and many requests may be."""

    def __init__(self, app, limits: Limits, folder: Path):
        self.app, self.limits, self.folder, self.examples = app, limits, folder, set(folder.rglob("*"))
        self.running: Counter[tuple[str, bool]] = Counter()  # address, whether it is an upload -> in progress
        self.share = max(limits.memory // SHARE, limits.upload + ENTRY)
        self.window, self.uploaded = 0, Counter()  # address -> bytes in this window of time

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path, headers = scope["path"], Headers(scope=scope)
        slot = address, upload = (scope.get("client") or [""])[0], path.rstrip("/") == "/gradio_api/upload"

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                added.update(HEADERS if path.startswith(STATIC) else {**HEADERS, "Cache-Control": "no-store"})
                if message["status"] >= 400:
                    added["Connection"] = "close"  # what else is sent is not read
            await send(message)

        self.running[slot] += 1
        try:
            if (refusal := self.refusal(path, headers, *slot)) is not None:
                return await PlainTextResponse(*refusal)(scope, receive, send_with_headers)
            if upload:
                await anyio.to_thread.run_sync(trim, self.folder, self.limits.memory - self.share, self.examples)
            if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
                receive = self.limited(receive, address, upload, form=path.rstrip("/") == "/login")
            await self.app(scope, receive, send_with_headers)
        finally:
            self.running[slot] -= 1
            self.running += Counter()  # drops zeros

    def refusal(self, path: str, headers: Headers, address: str, upload: bool) -> tuple[str, int] | None:
        """Message and status unless the request is for what is open, from this page, and not one too many."""
        start, _, file = path.partition("/gradio_api/file=")
        if not (OPEN.fullmatch(path) or (not start and inside(file, self.folder))):
            return "not found", 404
        origin = headers.get("origin")  # of a site that uses the browser of a visitor
        if origin is not None and urlsplit(origin).netloc != headers.get("x-forwarded-host", headers.get("host")):
            return "requests from other sites are refused", 403
        everyone = sum(count for slot, count in self.running.items() if slot[1] == upload)
        if self.running[address, upload] > MOST[upload][0] or everyone > MOST[upload][1]:
            return "too many requests at once: try again in a while", 429
        return None

    def limited(self, receive, address: str, upload: bool, form: bool):
        """A `receive` that raises HTTPException, which becomes the answer, for a body beyond the limits."""
        start, body, complete = time.monotonic(), bytearray(), False
        if (window := start // WINDOW) != self.window:
            self.window, self.uploaded = window, Counter()
        received, most = (self.uploaded, self.share) if upload else (Counter(), JSON_BYTES)
        before = received[address]

        async def receive_limited():
            nonlocal complete
            if complete:
                return await receive()
            left = start + PATIENCE + (received[address] - before) / RATE - time.monotonic()
            with anyio.move_on_after(left) as deadline:
                message = await receive()
            if deadline.cancelled_caught:
                raise HTTPException(408, "the request took too long")
            chunk, complete = message.get("body", b""), not message.get("more_body", False)
            received[address] += len(chunk)
            if received[address] > most:
                raise HTTPException(413, "this is more than is accepted at once, or in ten minutes")
            if not upload:
                body.extend(chunk)
                if complete and not form:
                    check_json(body, self.folder)
            return message

        return receive_limited


def check_json(body: bytearray, folder: Path) -> None:
    """HTTPException unless it is JSON in which every "path" is that of an uploaded file."""

    def check_path(value: dict) -> dict:
        if value.get("path") is not None and not inside(value["path"], folder):
            raise HTTPException(400, "a path must be that of an uploaded file")
        return value

    try:
        json.loads(body or "null", object_hook=check_path)
    except (ValueError, RecursionError):
        raise HTTPException(400, "this is no JSON, or nested too deeply") from None


def trim(folder: Path, most: int, kept: set[Path]) -> None:
    """Deletes the oldest files in the folder, but those to be kept, until the others take at most so many bytes."""
    with suppress(FileNotFoundError):  # of an upload that is renamed meanwhile
        files = [(path.stat(), path) for path in folder.rglob("*") if path not in kept and path.is_file()]
        for status, path in sorted(files, key=lambda file: -file[0].st_mtime):
            most -= status.st_size + ENTRY
            if most < 0:
                path.unlink(missing_ok=True)


def launch(models: Models, limits: Limits, folder: Path, host: str, port: int, **options) -> gr.Blocks:
    """The page, served by a thread. folder: of its files. options: `auth` and `root_path` of `gradio.Blocks.launch`."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    options |= {"prevent_thread_lock": True, "quiet": True, "footer_links": ["api"], "num_workers": 0}
    options |= {"max_file_size": limits.upload, "state_session_capacity": 500, "max_threads": 6, "theme": THEME}
    off = ("share", "ssr_mode", "pwa", "mcp_server", "run_history", "enable_monitoring", "show_error")
    blocks = build_page(Results(models, limits, folder))
    checks = {"middleware": [Middleware(RequestChecks, limits=limits, folder=folder)]}
    host = f"[{host}]" if ":" in host else host
    blocks.launch(server_name=host, server_port=port, app_kwargs=checks, **dict.fromkeys(off, False), **options)
    return blocks
