"""The Triton kernels: what they give is what PyTorch's operations give, and they compile for GPUs.

Without a GPU they run in Triton's interpreter, on tensors on the CPU.
"""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="there is no Triton for this system")

import proxyclip
from datasets import scenes
from datasets.scenes.dataset import SyntheticScenes
from proxyclip import fused, label_map
from proxyclip.best_query import Decision
from proxyclip.errors import InputError
from proxyclip.fused import decision, proxy_weights
from proxyclip.label_rule import LabelRule
from proxyclip.methods import _proxy_attention
from proxyclip.sliding import SlidingWindows
from proxyclip.stitching import View, WindowScores

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def everywhere(monkeypatch):
    monkeypatch.setattr(fused, "available", lambda device: True)


def similarities(windows: int, rows: int, patches: int, first: int, beta: float):
    """Inner products of rows of random patches with all, one of them without features, and their scales."""
    random = torch.Generator().manual_seed(patches)
    features = torch.randn(windows, patches, 12, generator=random) + 0.4
    features[-1, first] = 0
    length = features.norm(dim=2, keepdim=True)
    scale = torch.where(length > 0, 1 / length.clamp(min=1e-12), 0.0)
    least = beta * (features * scale).mean(1, keepdim=True).square().sum(2, keepdim=True)
    product = features[:, first : first + rows] @ features.mT
    return product.to(DEVICE), scale.to(DEVICE), least.to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("beta", [1.2, 0.0])
@pytest.mark.parametrize(("windows", "rows", "patches", "first"), [(2, 9, 9, 0), (1, 5, 1100, 1024), (3, 7, 40, 11)])
def test_weights_of_proxy_attention(windows, rows, patches, first, beta, dtype):
    product, scale, least = similarities(windows, rows, patches, first, beta)
    weights, total = proxy_weights.weigh(product.clone(), scale, least, 40.0, first, dtype)
    expected, expected_total = _proxy_attention.weigh(product, scale, least, 40.0, first, dtype)
    assert (
        weights.dtype == dtype and torch.equal(weights == 0, expected == 0) and 0 < (expected == 0).float().mean() < 1
    )
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(total, weights.float().sum(2, keepdim=True))
    torch.testing.assert_close(total, expected_total, atol=0, rtol=1e-5 if dtype == torch.float32 else 1e-3)


def test_proxy_attention_takes_the_kernel_unless_it_needs_gradients(everywhere, monkeypatch):
    calls = []
    weigh = proxy_weights.weigh
    monkeypatch.setattr(proxy_weights, "weigh", lambda *given: calls.append(given[4]) or weigh(*given))
    monkeypatch.setattr(_proxy_attention, "CPU_BLOCK" if DEVICE.type == "cpu" else "ACCELERATOR_BLOCK", 5 * 30)
    features, values = torch.randn(2, 8, 5, 6, device=DEVICE), torch.randn(2, 30, 4, device=DEVICE)
    found = _proxy_attention.proxy_attend(features, values, 1.2, 3.0)
    assert calls == 2 * [0, 5, 10, 15, 20, 25]
    monkeypatch.setattr(fused, "available", lambda device: False)
    torch.testing.assert_close(found, _proxy_attention.proxy_attend(features, values, 1.2, 3.0))
    monkeypatch.setattr(fused, "available", lambda device: True)
    _proxy_attention.proxy_attend(features.requires_grad_(), values, 1.2, 3.0).sum().backward()
    assert len(calls) == 12 and features.grad.abs().sum() > 0


def scores_of(size: tuple[int, int], windows: SlidingWindows, queries: int, weight=1.0, window=None) -> WindowScores:
    """Random scores of all windows of an image, 5 × 5 each, some of them equal to others."""
    counts = [len(windows.starts(length)) * 5 for length in size]
    scores = torch.randn(counts[0], queries, counts[1], generator=torch.Generator().manual_seed(queries))
    scores[:, -1] = scores[:, 0]  # ties: the first wins
    return WindowScores((View(scores.to(DEVICE), windows, size, weight, window),))


RULES = {
    "softmax": LabelRule(scale=40.0),
    "threshold": LabelRule(scale=40.0, threshold=0.7),
    "no softmax": LabelRule(activation="none", threshold=0.3),
    "area": LabelRule(scale=9.0, area=0.05),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize(
    ("size", "cut", "windows", "queries"),
    [
        ((50, 99), (40, 70), SlidingWindows(32, 16, 1), 7),  # enlarged
        ((40, 70), (40, 70), SlidingWindows(32, 8, 1), 1),
        ((60, 100), (80, 128), SlidingWindows(32, 16, 1), 20),  # reduced
        ((20, 20), (64, 64), SlidingWindows(0, 1, 1), 4),  # a single window, and a single block
    ],
)
@pytest.mark.parametrize("confidence", [True, False])
def test_label_maps(rule, size, cut, windows, queries, confidence, monkeypatch):
    scores = scores_of(cut, windows, queries, weight=0.5, window=(24, 40) if queries == 7 else None)
    owners = torch.arange(queries, device=DEVICE).to(torch.uint8) // 2
    subtract = torch.linspace(0, 0.2, queries, device=DEVICE) if queries > 5 else None
    given = scores, size, rule, owners, subtract
    expected = label_map.label_map(*given, confidence=confidence)
    monkeypatch.setattr(fused, "available", lambda device: True)
    monkeypatch.setattr(label_map, "tiles", None)  # the other way
    found = label_map.label_map(*given, confidence=confidence)
    assert found.labels.dtype == torch.uint8
    assert (found.labels == expected.labels).float().mean() >= 0.999  # where two scores are equal but for rounding
    assert queries == 1 or len(found.labels.unique()) > 1
    if confidence:
        torch.testing.assert_close(found.confidence, expected.confidence, atol=1e-5, rtol=1e-4)
    else:
        assert found.confidence is None


def test_a_whole_model(monkeypatch):
    """The embedded pair on one scene: the kernels take part in it, and change no label that is not tied."""
    model, scene = proxyclip.load("mini", device=DEVICE.type, short_side=64), SyntheticScenes().open()[3].image
    monkeypatch.setattr(fused, "available", lambda device: False)
    expected = model.segment(scene, scenes.CLASSES, batch_windows=1)
    calls = []
    for module, name in ((decision, "decide"), (proxy_weights, "weigh")):
        kernel = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, kernel=kernel: calls.append(kernel.__name__) or kernel(*given))
    monkeypatch.setattr(fused, "available", lambda device: True)
    found = model.segment(scene, scenes.CLASSES, batch_windows=1)
    assert calls == ["weigh", "decide"] and len(np.unique(found.labels)) > 2
    assert (found.labels == expected.labels).mean() > 0.999
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-4)


def test_ties_go_to_the_first():
    scores = scores_of((40, 70), SlidingWindows(32, 16, 1), 2)  # two equal queries
    rule = Decision(LabelRule(), torch.arange(2, device=DEVICE))
    assert not decision.decide(scores, (40, 70), rule).labels.any()


def test_excluded_queries_count_in_the_softmax():
    scores, out = scores_of((40, 70), SlidingWindows(32, 16, 1), 5), torch.zeros(5, dtype=torch.bool, device=DEVICE)
    out[2] = True
    rule = Decision(LabelRule(scale=3.0), torch.arange(5, device=DEVICE), excluded=out)
    found, expected = decision.decide(scores, (40, 70), rule), label_map.decided(scores, (40, 70), None, rule, out)
    assert not (found.labels == 2).any() and torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.confidence, expected.confidence, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("why", ["views", "sigmoid", "maps", "near"])
def test_what_the_kernel_leaves_to_pytorch(why, everywhere):
    cut = (160, 280) if why == "near" else (40, 70)
    (view,) = scores_of(cut, SlidingWindows(32, 16, 1), 3).views
    scores = WindowScores((view, view) if why == "views" else (view,))
    rule = LabelRule(window_sigmoid=why == "sigmoid", activation="none")
    given = scores, (40, 70), rule, torch.arange(3, device=DEVICE)
    keep = [1] if why == "maps" else []
    assert decision.decide(*given[:2], Decision(*given[2:], keep=tuple(keep))) is None
    assert list(label_map.label_map(*given, keep=keep).class_scores) == keep


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from proxyclip.fused.decision import COLUMNS, MOST_NEAR, ROWS, WARPS, decide_block
from proxyclip.fused.proxy_weights import COLUMNS as READ, weigh_row

def build(kernel, types, constants, target, **options):
    given = [name for name in kernel.arg_names if name not in constants]
    types = dict(zip(given, types)) | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, {name: types[name] for name in kernel.arg_names}, constants)
    made = triton.compile(source, target=GPUTarget(*target), options=options)
    print(kernel.__name__, made.metadata.shared, *made.asm)

for target in [("cuda", 80, 32), ("cuda", 90, 32), ("hip", "gfx942", 64)]:
    for half in ("*bf16", "*fp16", "*fp32"):
        build(weigh_row, ["*fp32", "*fp32", "*fp32", half, "*fp32", "fp32", "i32", "i32"], {"COLUMNS": READ}, target)
    for label, yes in (("*u8", True), ("*i32", False)):
        types = ["*fp32", "*i64", "*fp32", "*i64", "*fp32", label, "*fp32", "*i1", label, "*fp32", *5 * ["i32"]]
        constants = dict.fromkeys(["NEAR_ROWS", "NEAR_COLUMNS"], MOST_NEAR) | {"ROWS": ROWS, "COLUMNS": COLUMNS}
        constants |= dict.fromkeys(["SUBTRACTED", "EXCLUDING", "SOFTMAX", "SCORED"], yes)
        build(decide_block, types, constants, target, num_warps=WARPS)
"""


def test_they_compile_for_gpus(tmp_path):
    """For an A100, an H100 and an MI300, without any of them."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    made = [line.split() for line in done.stdout.splitlines()]
    assert sum("cubin" in files for files in made) == 10 and sum("hsaco" in files for files in made) == 5
    assert all(int(shared) <= 48 * 1024 for _, shared, *_ in made)  # bytes of shared memory: what every GPU has


def test_they_are_launched_on_the_device_of_the_tensors(monkeypatch):
    """Triton would launch them on the current device."""
    on = []
    monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: on.append(tensor.shape) or nullcontext())
    proxy_weights.weigh(*similarities(1, 2, 5, 0, 1.2), 40.0, 0, torch.float32)
    scores = scores_of((40, 70), SlidingWindows(32, 16, 1), 3)
    decision.decide(scores, (40, 70), Decision(LabelRule(), torch.arange(3, device=DEVICE)))
    assert on == [(1, 2, 5), scores.views[0].scores.shape]


CUDA = torch.device("cuda")


@pytest.fixture
def asked(monkeypatch):
    """Sets the environment variable; what is known from before is forgotten."""
    fused.works.cache_clear()
    yield lambda value: monkeypatch.setenv("PROXYCLIP_GPU_KERNELS", value)
    fused.works.cache_clear()


def test_where_they_are_available(asked, monkeypatch):
    tried = []
    monkeypatch.setattr(torch, "ones", lambda *size, device: tried.append(device))
    monkeypatch.setattr(proxy_weights, "weigh", lambda *given: None)
    assert not fused.available(torch.device("cpu")) and not fused.available(torch.device("meta")) and not tried
    assert fused.available(CUDA) and fused.available(CUDA) and tried == [CUDA]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not fused.available(CUDA)


@pytest.mark.parametrize("there", [True, False])
def test_pytorch_alone(there, asked, monkeypatch, recwarn):
    monkeypatch.setattr(fused, "TRITON", there)
    asked("pytorch" if there else "")
    assert not fused.available(CUDA) and not recwarn


def test_a_device_that_triton_does_not_work_on(asked, monkeypatch):
    def weigh(*_):
        raise RuntimeError("Failed to find C compiler.\nSee the manual")

    monkeypatch.setattr(torch, "ones", lambda *size, device: None)
    monkeypatch.setattr(proxy_weights, "weigh", weigh)
    with pytest.warns(
        UserWarning, match=r"Triton does not work on cuda \(Failed to find C compiler\.\); using PyTorch's"
    ):
        assert not fused.available(CUDA)
    fused.works.cache_clear()
    asked("triton")
    with pytest.raises(InputError, match=r"is triton, but Triton does not work on cuda: Failed to find C compiler\.$"):
        fused.available(CUDA)


def test_an_unknown_choice(asked):
    asked("cuda")
    with pytest.raises(InputError, match="PROXYCLIP_GPU_KERNELS is 'cuda'; choose triton or pytorch"):
        fused.available(CUDA)
