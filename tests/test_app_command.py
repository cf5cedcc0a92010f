"""`proxyclip app` and `python app.py`: options, what is said before anything is served, and how it ends."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from PIL import Image

from proxyclip.command.app import main

ROOT = Path(__file__).parents[1]


def refused(capsys, *arguments) -> str:
    """The error of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_without_gradio_one_sentence_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install '.[app]'" in refused(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "--port is 70000; choose a number from 0 to 65535"),
        (["--max-pixels", "0"], "--max-pixels is 0; choose a number from 1"),
        (["--max-upload", "-5"], "--max-upload is -5"),
        (["--auth", "anna"], "--auth must be USER:PASSWORD"),
        (["--auth", ""], "--auth must be USER:PASSWORD"),
        (["--host", "no host"], "cannot listen at 'no host', port 7860"),
        (["--host", "http://localhost"], "cannot listen at 'http://localhost'"),
        (["--host", "x" * 300], "cannot listen at"),
        (["--host", ""], "cannot listen at ''"),
        (["--host", "192.0.2.1"], "cannot listen at '192.0.2.1', port 7860: Cannot assign"),
        (["--preset", "minni"], "did you mean mini?"),
        (["--set", "bet=2"], "did you mean beta?"),
        (["--checkpoint-clip", "/nowhere.pt"], "checkpoint /nowhere.pt does not exist"),
        (["--refine", "sam:picture.png"], "error: "),  # no checkpoint, or where torchvision is incomplete, no SAM
        (["--refine", "masks:/nowhere"], "the folder of masks /nowhere does not exist"),
    ],
)
def test_wrong_options_end_the_command(capsys, arguments, message, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="the page needs Gradio")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("picture.png")
    assert message in refused(capsys, *arguments)


def test_an_address_in_use_ends_the_command(capsys):
    pytest.importorskip("gradio", reason="the page needs Gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen at '127.0.0.1', port {port}: Address already in use" in refused(
            capsys, "--port", str(port)
        )


def test_a_checkpoint_is_for_the_script_alone():
    done = subprocess.run([sys.executable, "app.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--checkpoint FILE" in done.stdout and "127.0.0.1" in done.stdout
    with pytest.raises(SystemExit):
        main(["--checkpoint", "x"])


def test_ctrl_c_ends_it_with_pages_open(tmp_path):
    """Also where the shell has started it in the background, which ignores the signal."""
    pytest.importorskip("gradio", reason="the page needs Gradio")
    command = [sys.executable, "app.py", "--device", "cpu", "--port", "0", "--auth", "anna:secret"]
    ignore = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, preexec_fn=ignore, **pipes
    )
    try:
        address = running.stdout.readline().split()[0]
        with urlopen(f"{address}/gradio_api/heartbeat/abc", timeout=20) as held:
            held.readline()
            assert list(tmp_path.glob("proxyclip-*"))
            running.send_signal(signal.SIGINT)
            start = time.monotonic()
            assert running.wait(20) == 130 and time.monotonic() - start < 10
        assert "interrupted" in running.stderr.read()
        assert not list(tmp_path.glob("proxyclip-*"))
    finally:
        running.kill()
        running.communicate()
