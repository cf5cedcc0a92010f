"""Devices and precisions by name, and float32 that stays float32 inside other people's settings."""

import threading
import warnings

import pytest
import torch

from proxyclip.backbones.precision import exact_float32, resolve_device, resolve_precision
from proxyclip.errors import InputError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpus(monkeypatch):
    """This machine seems to have that many GPUs of that compute capability."""

    def pretend(count: int, capability=(9, 0)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)

    return pretend


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ("cuda:9", "'cuda:9' does not exist: this machine has only one of kind cuda"),
        ("cuda:99999999999999999999", "does not exist"),
        ("cuda:-1", "'cuda:-1' has no number after the colon; choose auto, cpu, mps, cuda"),
        ("cuda:x", "'cuda:x' has no number after the colon"),
        ("cuda:", "'cuda:' has no number after the colon"),
        ("cuda:01", "no number after the colon"),
        ("cuda:²", "no number after the colon"),
        ("cuda:0:1", "no number after the colon"),
        ("cpu:3", "'cpu:3' does not exist: this machine has only one of kind cpu"),
        ("mps", "'mps' is not available to this PyTorch"),
        ("gpu", "unknown device 'gpu'; .*Known: auto, cpu, cuda, mps"),
        ("CPU", "unknown device 'CPU'; did you mean cpu"),
        ("", "device '' is not the name of a device"),
        (None, "device None is not the name of a device"),
        (0, "device 0 is not the name of a device"),
        (1.5, "device 1.5 is not the name of a device"),
        (["cpu"], "device .'cpu'. is not the name of a device"),
    ],
    ids=str,
)
def test_devices_that_cannot_be(gpus, device, sentence):
    gpus(1)
    with pytest.raises(InputError, match=sentence) as caught:
        resolve_device(device)
    assert "\n" not in str(caught.value)


def test_devices(gpus):
    gpus(2)
    assert resolve_device("auto") == resolve_device("cuda") == CUDA
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device(torch.device("cuda:1")) == torch.device("cuda:1")
    assert resolve_device("cpu") == CPU
    with pytest.raises(InputError, match="this machine has 2, numbered 0 to 1"):
        resolve_device("cuda:2")
    gpus(0)
    assert resolve_device("auto").type in ("cpu", "mps")
    with pytest.raises(InputError, match="'cuda:1' is not available to this PyTorch"):
        resolve_device("cuda:1")


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 0), torch.float16), ((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((8, 9), torch.bfloat16)],
)
def test_bfloat16_only_where_the_hardware_has_it(gpus, monkeypatch, capability, expected):
    gpus(1, capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a, **k: True)  # PyTorch counts emulation as support
    assert resolve_precision("auto", CUDA) == expected


def test_precisions():
    assert resolve_precision("auto", CPU) == torch.float32
    assert resolve_precision("auto", torch.device("mps")) == torch.float16
    assert resolve_precision("bf16", CPU) == torch.bfloat16
    for wrong in ("fp61", None, 16, ["fp32"], ""):
        with pytest.raises(InputError, match="unknown precision .*Known: auto, bf16, fp16, fp32"):
            resolve_precision(wrong, CPU)


def settings() -> list:
    """All that says whether float32 is computed in less."""
    backends, found = torch.backends, []
    for read in (
        torch.get_float32_matmul_precision,
        lambda: backends.cuda.matmul.allow_tf32,
        lambda: backends.cudnn.allow_tf32,
        lambda: backends.cuda.matmul.fp32_precision,
        lambda: backends.cudnn.conv.fp32_precision,
        lambda: backends.mkldnn.matmul.fp32_precision,
        lambda: backends.mkldnn.conv.fp32_precision,
    ):
        try:
            found.append(read())
        except (RuntimeError, AttributeError) as error:
            found.append(type(error))
    return found


def older_api():
    torch.set_float32_matmul_precision("medium")


def older_cudnn():
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = False


def newer_api():
    torch.backends.fp32_precision = "tf32"


def newer_places():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"


def both_apis():
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cuda.matmul.fp32_precision = "ieee"


@pytest.mark.parametrize("caller", [lambda: None, older_api, older_cudnn, newer_api, newer_places, both_apis])
def test_exact_products_inside_and_the_callers_settings_after(caller):
    if caller.__name__.startswith(("newer", "both")) and not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this PyTorch has no newer settings")
    restore = settings_as_they_are()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            caller()
            before = settings()
            with exact_float32(CPU):
                inside = settings()
                with exact_float32(CPU):
                    assert settings() == inside
                assert settings() == inside
            assert settings() == before
        assert not {"tf32", "bf16", True, "medium", "high"} & {*inside[1:]}
        assert inside[3:] == ["ieee"] * 4
    finally:
        restore()


def settings_as_they_are():
    """A function that sets them back."""
    older = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    newer = hasattr(torch.backends, "fp32_precision")

    def restore():
        if newer:
            torch.backends.fp32_precision = "none"
        torch.set_float32_matmul_precision(older[0])
        torch.backends.cudnn.allow_tf32 = older[1]

    return restore


def test_an_error_inside_restores_too():
    before = settings()
    with pytest.raises(ZeroDivisionError), exact_float32(CPU):
        1 / 0  # noqa: B018
    assert settings() == before


def test_autocast_does_not_reach_inside():
    a = torch.randn(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with exact_float32(CPU):
            assert (a @ a).dtype == torch.float32
        assert (a @ a).dtype == torch.bfloat16


def test_threads_that_overlap():
    """The first one in leaves first: the other one must go on in float32, and the caller's settings come back."""
    older_api()
    try:
        before, entered, first_left, seen = settings(), threading.Event(), threading.Event(), []

        def second():
            with exact_float32(CPU):
                entered.set()
                first_left.wait(10)
                seen.append(torch.backends.cuda.matmul.allow_tf32)

        thread = threading.Thread(target=second)
        with exact_float32(CPU):
            thread.start()
            assert entered.wait(10)
        first_left.set()
        thread.join(10)
        assert seen == [False]
        assert settings() == before
    finally:
        torch.set_float32_matmul_precision("highest")
