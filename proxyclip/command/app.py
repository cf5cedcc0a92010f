"""A page in the browser that segments images by class names.

proxyclip app                                  http://127.0.0.1:7860, the embedded models; works offline
proxyclip app --preset vitb16-dino             published models, for photographs, first in the list
proxyclip app --host 0.0.0.0 --port 80 --auth USER:PASSWORD     for everyone who reaches this machine and knows both
"""

import importlib.util
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from proxyclip.command.model_options import add_model_options, chosen_model, new_parser
from proxyclip.errors import InputError
from proxyclip.options import LARGEST
from proxyclip.runtime import main_guard

HOST, PORT = "127.0.0.1", 7860
MEGABYTE = 10**6  # bytes, as file managers count


@main_guard
def main(arguments: list[str] | None = None, trained: Callable | None = None) -> None:
    """trained: loads trained heads, see `ModelChoice`."""
    parser = new_parser(__doc__, None if trained else "app")
    add_model_options(parser, heads=trained is not None)
    add = parser.add_argument_group("page").add_argument
    add("--host", default=HOST, help=f"address to listen at (default: {HOST}, this machine only)")
    add("--port", type=int, default=PORT, help=f"port to listen at (default: {PORT}; 0: any free one)")
    add("--auth", metavar="USER:PASSWORD", help="asked of every visitor (default: nothing is asked)")
    add("--root-path", metavar="PATH", help="of the page behind a proxy, such as /segment")
    add("--max-pixels", type=int, default=16_000_000, metavar="N", help="of an image (default: 16000000)")
    add("--max-upload", type=int, default=32, metavar="MB", help="of an image file (default: 32)")
    add("--max-names", type=int, default=200, metavar="N", help="in a list, synonyms included (default: 200)")
    kept = "of results in memory, and of files on disk (default: 1000)"
    add("--max-memory", type=int, default=1000, metavar="MB", help=kept)
    options = parser.parse_args(arguments)
    for name, most in {"pixels": 10**8, "upload": LARGEST, "names": LARGEST, "memory": LARGEST}.items():
        value = getattr(options, f"max_{name}")
        if not 1 <= value <= most:
            raise InputError(f"--max-{name} is {value}; choose a number from 1 to {most}")
    user, _, password = (options.auth or "").partition(":")
    if options.auth is not None and not (user and password):
        raise InputError("--auth must be USER:PASSWORD")
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs Gradio: pip install 'proxyclip[app]', or pip install '.[app]' in a checkout")
    port = free_port(options.host, options.port)
    choice = chosen_model(options, trained)

    from proxyclip.app.models import Models  # from here on: wrong options are found without Gradio and torch
    from proxyclip.app.results import Limits
    from proxyclip.app.server import launch

    limits = Limits(options.max_pixels, options.max_upload * MEGABYTE, options.max_names, options.max_memory * MEGABYTE)
    models = Models(choice)
    for number in (signal.SIGINT, signal.SIGTERM):  # also in a container, or in the background of a shell
        signal.signal(number, signal.default_int_handler)
    local = ("localhost", "127.0.0.1", "::1", options.host)  # Gradio asks itself whether it runs, not through a proxy
    os.environ["NO_PROXY"] = ",".join([*filter(None, [os.environ.get("NO_PROXY")]), *local])
    with tempfile.TemporaryDirectory(prefix="proxyclip-", ignore_cleanup_errors=True) as folder:
        auth = (user, password) if options.auth else None
        asked = {"auth": auth, "root_path": options.root_path}
        blocks = launch(models, limits, Path(folder).resolve(), options.host, port, **asked)
        blocks.server.config.timeout_graceful_shutdown = 1  # second; pages that are open hold connections
        print(f"{blocks.local_url.rstrip('/')} (Ctrl-C stops)", flush=True)
        try:
            threading.Event().wait()
        finally:
            blocks.close(verbose=False)


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0; InputError unless one can listen there."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port is {port}; choose a number from 0 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host or " ", port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            return listener.getsockname()[1]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen at {host!r}, port {port}: {reason}; see --host, --port") from None
