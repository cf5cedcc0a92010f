"""`proxyclip app` and `python app.py`: options, and what is said before anything is served."""

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from proxyclip.command.app import main

ROOT = Path(__file__).parents[1]


def said(capsys, *arguments) -> str:
    """The error of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_without_gradio_one_sentence_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = said(capsys)
    assert "pip install" in error and ".[app]" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "--port is 70000; choose a number from 0 to 65535"),
        (["--max-pixels", "0"], "--max-pixels is 0; choose a number from 1"),
        (["--max-upload", "-5"], "--max-upload is -5"),
        (["--preset", "minni"], "did you mean mini?"),
        (["--set", "bet=2"], "did you mean beta?"),
        (["--checkpoint-clip", "/nowhere.pt"], "checkpoint /nowhere.pt does not exist"),
    ],
)
def test_wrong_options_end_the_command(capsys, arguments, message):
    pytest.importorskip("gradio", reason="the page needs Gradio")
    assert message in said(capsys, *arguments)


def test_an_address_in_use_ends_the_command(capsys):
    pytest.importorskip("gradio", reason="the page needs Gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen at 127.0.0.1, port {port}: Address already in use" in said(capsys, "--port", str(port))


def test_a_checkpoint_is_for_the_script_alone():
    done = subprocess.run([sys.executable, "app.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--checkpoint FILE" in done.stdout and "127.0.0.1" in done.stdout
    with pytest.raises(SystemExit):
        main(["--checkpoint", "x"])
