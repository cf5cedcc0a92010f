"""Scripts keep freed memory for the next layer; other programs and other settings are left alone."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = 4 * 6_000_000 // 4096  # of one layer
SCRIPT = """
import resource, sys, threading
from proxyclip.errors import main_guard

def layers():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [b"x" * 6_000_000 for _ in range(4)]
        del blocks  # before the next ones are made
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

def main():
    layers()
    thread = threading.Thread(target=layers)
    thread.start(), thread.join()

(main if sys.argv[1] == "plain" else main_guard(main))()
"""
on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def pages(how: str, **environment) -> list[int]:
    """Pages that the system handed out to the main thread and to another one."""
    here = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", SCRIPT, how]
    done = subprocess.run(command, cwd=ROOT, env=here | environment, capture_output=True, check=True, timeout=60)
    return [int(line) for line in done.stdout.split()]


@on_glibc
def test_a_script_gets_its_pages_once():
    assert max(pages("guarded")) < 3 * PAGES
    assert min(pages("plain")) > 10 * PAGES


@on_glibc
@pytest.mark.parametrize("setting", [{"MALLOC_TOP_PAD_": "0"}, {"GLIBC_TUNABLES": "glibc.malloc.top_pad=0"}])
def test_the_environment_may_decide(setting):
    assert min(pages("guarded", **setting)) > 10 * PAGES


def test_without_glibc_nothing_happens(monkeypatch):
    from proxyclip import heap

    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())  # musl has no mallopt
    heap.keep_memory()
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: pytest.fail("asked"))
    heap.keep_memory()
