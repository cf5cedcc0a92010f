"""The page, served by a thread of this process, and the addresses that the process connects to."""

import socket
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs Gradio")

from proxyclip.app.models import Models
from proxyclip.app.results import Limits, Results
from proxyclip.app.server import launch
from proxyclip.command.app import free_port
from proxyclip.command.model_options import ModelChoice

MINI = {"preset": "mini", "device": "cpu", "precision": "fp32"}
EXAMPLES = Path(__file__).parents[1] / "proxyclip" / "app" / "examples"
connections: set = set()


def record_connection(event, arguments):
    if event == "socket.connect" and arguments[0].family in (socket.AF_INET, socket.AF_INET6):
        connections.add(arguments[1][0])


sys.addaudithook(record_connection)


def new_results(folder, settings=(), **limits) -> Results:
    return Results(Models(ModelChoice(MINI, settings)), Limits(**limits), Path(folder))


@contextmanager
def served(limits: Limits = Limits(), **options):  # noqa: B008 - a tuple
    """The address of the page, and the folder of its files."""
    with tempfile.TemporaryDirectory(prefix="proxyclip-", ignore_cleanup_errors=True) as folder:
        folder = Path(folder).resolve()
        blocks = launch(Models(ModelChoice(MINI)), limits, folder, "127.0.0.1", free_port("127.0.0.1", 0), **options)
        blocks.server.config.timeout_graceful_shutdown = 1
        try:
            yield blocks.local_url.rstrip("/"), folder
        finally:
            blocks.close(verbose=False)
