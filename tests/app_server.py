"""The page, served by a thread of this process, and the addresses that the process connects to."""

import socket
import sys
import threading
import time
from contextlib import contextmanager
from urllib.request import urlopen

import pytest

pytest.importorskip("gradio", reason="the page needs Gradio")

import uvicorn

from proxyclip.app.desk import Desk
from proxyclip.app.limits import Limits
from proxyclip.app.models import Models
from proxyclip.app.server import application, listen
from proxyclip.command.model_options import ModelChoice

MINI = {"preset": "mini", "device": "cpu", "precision": "fp32"}
connections: list = []


def hear(event, arguments):
    if event == "socket.connect" and arguments[0].family in (socket.AF_INET, socket.AF_INET6):
        connections.append(arguments[1])


sys.addaudithook(hear)


def new_desk(**limits) -> Desk:
    return Desk(Models(ModelChoice(MINI)), Limits(**limits))


@contextmanager
def served(desk: Desk):
    """The address of the page of a desk."""
    opened = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(desk), log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{opened.getsockname()[1]}"
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        with urlopen(f"{address}/parts/icon.svg", timeout=10) as answer:
            assert answer.status == 200
        yield address
    finally:
        server.should_exit = True
        thread.join(timeout=10)
