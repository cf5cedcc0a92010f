"""Every test keeps computed things in a folder of its own and downloads nothing."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROXYCLIP_CACHE", str(tmp_path / "cache"))
