"""Every test keeps computed things in a folder of its own, downloads nothing, and starts with one thread."""

import os

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROXYCLIP_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def one_thread():
    """Whatever the tests before have set: the threads of tiny models wait for each other longer than they compute."""
    torch.set_num_threads(1)
