"""Attention without the matrix of all pairs, and products by way of convolutions, against PyTorch's own."""

import os
import time

import pytest
import tiny_clip
import torch
import torch.nn.functional as F

from proxyclip.backbones import cpu_choice
from proxyclip.backbones import cpu_kernels as linear
from proxyclip.backbones.cpu_kernels import ROWS, attend, product
from proxyclip.errors import InputError

TOKENS = (1, 5, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 17)
CHOICES = {
    "convolutions_are_faster": "PROXYCLIP_CPU_LINEAR",
    "convolved_products_are_faster": "PROXYCLIP_CPU_PRODUCT",
    "rows_are_faster": "PROXYCLIP_CPU_ATTENTION",
}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[True, False], ids=["convolutions", "products"])
def faster(request, monkeypatch):
    monkeypatch.setattr(linear, "convolutions_are_faster", lambda dtype: request.param)
    monkeypatch.setattr(linear, "convolved_products_are_faster", lambda dtype: request.param)
    return request.param


@pytest.fixture(params=[True, False], ids=["rows", "fused"])
def by_rows(request, monkeypatch):
    monkeypatch.setattr(linear, "rows_are_faster", lambda dtype: request.param)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", TOKENS)
def test_attend(by_rows, tokens, dtype):
    query, key, value = (random(2, 3, tokens, 8, seed=seed).to(dtype) for seed in range(3))
    expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    before = query.clone()
    mixed = attend(query, key, value)
    assert mixed.dtype == dtype and mixed.shape == (2, 3, tokens, 8)
    torch.testing.assert_close(mixed.double(), expected, atol=TOLERANCE[dtype], rtol=0)
    assert torch.equal(query, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attend_with_more_keys_than_queries(by_rows, dtype):
    query, key, value = random(2, 2, 9, 16).to(dtype), random(2, 2, 300, 16).to(dtype), random(2, 2, 300, 16, seed=2)
    expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    mixed = attend(query, key, value.to(dtype))
    torch.testing.assert_close(mixed.double(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attend_with_a_bias_and_a_scale(by_rows, dtype):
    tokens = 2 * ROWS + 5
    query, key, value = (random(2, 2, tokens, 8, seed=seed).to(dtype) for seed in range(3))
    bias = random(tokens, tokens, seed=3).to(dtype)
    doubles = (part.double() for part in (query, key, value))
    expected = F.scaled_dot_product_attention(*doubles, attn_mask=bias.double(), scale=0.2)
    mixed = attend(query, key, value, bias, 0.2)
    torch.testing.assert_close(mixed.double(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 7, 13, 5), (2, 130, 24, 71), (3, 33, 1, 8)])
def test_linear(faster, shape, bias, dtype):
    batch, tokens, inputs, outputs = shape
    given = random(batch, tokens, inputs).to(dtype)
    weight = (random(outputs, inputs, seed=1) / inputs**0.5).to(dtype)
    offset = random(outputs, seed=2).to(dtype) if bias else None
    expected = F.linear(given.double(), weight.double(), offset.double() if bias else None)
    result = linear.linear(given, weight, offset)
    assert result.dtype == dtype and result.shape == (batch, tokens, outputs)
    torch.testing.assert_close(result.double(), expected, atol=3 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_of_views(faster, dtype):
    given = random(2, 24, 9).to(dtype).mT[:, 1:]  # tokens and channels exchanged, the first token left out
    weight = random(24, 10, seed=1).to(dtype).T[::2]  # transposed, every second row
    offset = random(10, seed=2).to(dtype)[::2]
    result = linear.linear(given, weight, offset)
    expected = F.linear(given.double(), weight.double(), offset.double())
    torch.testing.assert_close(result.double(), expected, atol=3 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_gradients_of_linear(faster, trained):
    given, weight, offset = random(2, 7, 9).requires_grad_(), random(5, 9, seed=1), random(5, seed=2)
    parts = [given, weight.requires_grad_(trained), offset.requires_grad_(trained)]
    parts = [part for part in parts if part.requires_grad]
    found = torch.autograd.grad(linear.linear(given, weight, offset).square().sum(), parts)
    expected = torch.autograd.grad(F.linear(given, weight, offset).square().sum(), parts)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product(faster, dtype):
    a, b = random(2, 31, 12).to(dtype), random(2, 12, 17, seed=1).to(dtype).mT  # (2, 31, 12), (2, 17, 12)
    expected = a.double() @ b.double().mT
    result = product(a, b)
    assert result.dtype == dtype and result.shape == (2, 31, 17)
    torch.testing.assert_close(result.double(), expected, atol=3 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_each_path_is_its_own(monkeypatch):
    """So that the tests above test two things."""
    called = []
    for name in ("linear", "conv2d", "scaled_dot_product_attention"):
        original = getattr(F, name)
        monkeypatch.setattr(
            F, name, lambda *a, name=name, original=original, **k: called.append(name) or original(*a, **k)
        )
    for faster, paths in ((True, ["conv2d", "conv2d"]), (False, ["linear", "scaled_dot_product_attention"])):
        for name in CHOICES:
            monkeypatch.setattr(linear, name, lambda dtype, faster=faster: faster)
        called.clear()
        linear.linear(random(2, 3, 4), random(5, 4))
        product(random(1, 3, 4), random(1, 5, 4))
        attend(*random(3, 1, 2, 5, 4))
        assert called == paths


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 10, 16])
def test_convolutions_are_computed_by_onednn(batch, threads):
    """Without the dilation, those of small batches on one thread are not."""
    torch.set_num_threads(threads)
    given, weight = random(batch, 257, 128), random(384, 128, seed=1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        linear.convolution(given, weight)
    assert "aten::mkldnn_convolution" in {event.key for event in profiled.key_averages()}


def test_product_needs_as_many_of_both(monkeypatch):
    monkeypatch.setattr(linear, "convolved_products_are_faster", lambda dtype: True)
    with pytest.raises(ValueError, match="shorter"):
        product(random(2, 3, 4), random(1, 3, 4))


@pytest.fixture
def unmeasured(monkeypatch):
    """As in a process that has just begun, without choices in the environment."""
    for name, variable in CHOICES.items():
        getattr(linear, name).cache_clear()
        monkeypatch.delenv(variable, raising=False)
    yield
    for name in CHOICES:
        getattr(linear, name).cache_clear()


needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@needs_onednn
@pytest.mark.parametrize(
    ("capability", "plain", "ours", "expected"),
    [  # linear layers, products, attention
        ("AVX512", 2.2, 1.0, (True, True, True)), ("AVX512", 1.0, 1.2, (True, False, False)),
        ("AVX512", 1.0, 1.3, (False, False, False)), ("AVX2", 1.3, 1.0, (True, True, True)),
        ("AVX2", 1.2, 1.0, (False, False, True)), ("AVX2", 1.0, 1.1, (False, False, False)),
    ],
)  # fmt: skip
def test_the_faster_way_is_measured_once_for_each_type(unmeasured, monkeypatch, capability, plain, ours, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    measured = []
    monkeypatch.setattr(cpu_choice, "measure", lambda *parts: measured.append(parts[1].__name__) or (plain, ours))
    for _ in range(3):
        for dtype in (torch.float32, torch.bfloat16):
            found = tuple(getattr(linear, name)(dtype) for name in CHOICES)
            assert found == (*expected[:2], expected[2] and dtype == torch.bfloat16)
    assert measured == ["convolution"] * 4 + ["attend_by_rows"]  # fused attention is fast in fp32


@needs_onednn
def test_other_devices_and_compilers_decide_for_themselves(monkeypatch):
    for name in CHOICES:
        monkeypatch.setattr(linear, name, lambda dtype: pytest.fail("asked"))
    on_meta = torch.zeros(1, 2, 3, 4, device="meta")
    linear.linear(on_meta[0], on_meta[0, 0]), product(on_meta[0], on_meta[0]), attend(on_meta, on_meta, on_meta)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    here = random(1, 2, 3, 4)
    linear.linear(here[0], here[0, 0]), product(here[0], here[0]), attend(here, here, here)


def test_what_is_computed_in_another_type_under_autocast():
    assert linear.computed_type(random(1)) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert linear.computed_type(random(1)) == torch.bfloat16


@needs_onednn
@pytest.mark.parametrize("choice", CHOICES)
def test_the_environment_chooses(unmeasured, monkeypatch, choice):
    monkeypatch.setattr(cpu_choice, "measure", lambda *parts: pytest.fail("measured"))
    decide, variable = getattr(linear, choice), CHOICES[choice]
    theirs, ours = ("fused", "rows") if choice == "rows_are_faster" else ("mkl", "onednn")
    for value, expected in ((ours, True), (theirs, False)):
        monkeypatch.setenv(variable, value)
        decide.cache_clear()
        assert decide(torch.bfloat16) is expected
    monkeypatch.setenv(variable, "fast")
    decide.cache_clear()
    with pytest.raises(InputError, match=f"{variable} is 'fast'; choose {theirs} or {ours}"):
        decide(torch.bfloat16)


@needs_onednn
@pytest.mark.parametrize("choice", CHOICES)
def test_the_measurement_is_short_and_leaves_no_trace(unmeasured, choice):
    decide, before, threads = getattr(linear, choice), torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        decide(torch.bfloat16)  # the first one also sets oneDNN up
        decide.cache_clear()
        start = time.thread_time()
        decide(torch.bfloat16)
        assert time.thread_time() - start < 0.5
        assert torch.get_num_threads() == 2 and torch.equal(torch.get_rng_state(), before)
    finally:
        torch.set_num_threads(threads)


def test_the_measurement_runs_on_one_thread():
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        cpu_choice.measure(lambda: found.append(torch.get_num_threads()), lambda: None, ())
    finally:
        torch.set_num_threads(threads)
    assert found == [1] * cpu_choice.TRIALS


def test_what_one_slow_trial_says_does_not_count(monkeypatch):
    """Another process may take the processor away at any moment."""
    seconds = [3, 1, 9, 9, 1, 2, *[9] * 2 * (cpu_choice.TRIALS - 3)]  # of both functions in turn
    clock = iter([time for taken in seconds for time in (0, taken)])
    monkeypatch.setattr(cpu_choice.time, "thread_time" if os.name != "nt" else "perf_counter", lambda: next(clock))
    assert cpu_choice.measure(torch.sin, torch.cos, (random(2),)) == (1, 1)


@pytest.mark.parametrize("way", ["mkl", "onednn"])
def test_both_ways_agree_on_a_whole_model(unmeasured, monkeypatch, way):
    model, given = tiny_clip.model(), torch.rand(2, 3, 48, 72, generator=torch.Generator().manual_seed(1))
    text = F.normalize(random(3, 16), dim=1)
    scores = model.window_scores(given, text)
    for name in ("convolutions_are_faster", "convolved_products_are_faster"):
        monkeypatch.setenv(CHOICES[name], way)
        getattr(linear, name).cache_clear()
    torch.testing.assert_close(model.window_scores(given, text), scores, atol=1e-5, rtol=0)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("choice", ["convolutions_are_faster", "convolved_products_are_faster"])
def test_the_measurement_is_of_onednn(unmeasured, choice, dtype):
    """Small 1 × 1 convolutions on one thread are left to other libraries."""
    with torch.profiler.profile() as profile:
        getattr(linear, choice)(dtype)
    called = {event.key for event in profile.key_averages()}
    assert "aten::mkldnn_convolution" in called and "aten::_slow_conv2d_forward" not in called
