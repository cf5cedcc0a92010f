"""The process that serves the page."""

import os
import socket

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported: it reports its import otherwise

import gradio as gr
import uvicorn
from fastapi import FastAPI

from proxyclip.app import page, theme
from proxyclip.app.desk import Desk
from proxyclip.app.guard import Guard
from proxyclip.app.routes import STATIC, add_routes
from proxyclip.errors import InputError


def application(desk: Desk) -> FastAPI:
    """The whole page as an ASGI application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, desk)
    app.add_middleware(Guard)
    look = {"theme": theme.theme(), "css_paths": [STATIC / "page.css", STATIC / "viewer.css"], "head": page.HEAD}
    off = {"footer_links": [], "run_history": False, "ssr_mode": False, "mcp_server": False, "pwa": False}
    return gr.mount_gradio_app(app, page.page(desk), "/", show_error=False, max_file_size=1, **look, **off)


def serve(desk: Desk, host: str, port: int) -> None:
    """Serves the page until Ctrl-C. port: 0 for any free one. InputError if the address cannot be used."""
    opened = listen(host, port)
    server = uvicorn.Server(uvicorn.Config(application(desk), log_level="warning", timeout_graceful_shutdown=2))
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{opened.getsockname()[1]} (Ctrl-C stops)", flush=True)
    server.run(sockets=[opened])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at the address; InputError if it cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise InputError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}; see --host, --port"
        ) from None
    return opened
