"""Attention without the matrix of all pairs, and products by way of convolutions, against PyTorch's own."""

import time

import pytest
import tiny_clip
import torch
import torch.nn.functional as F

from proxyclip.backbones import cpu_kernels as linear
from proxyclip.backbones.cpu_kernels import ROWS, attend, product
from proxyclip.errors import InputError

TOKENS = (1, 5, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 17)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[True, False], ids=["convolutions", "products"])
def faster(request, monkeypatch):
    monkeypatch.setattr(linear, "convolutions_are_faster", lambda dtype: request.param)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", TOKENS)
def test_attend(tokens, dtype):
    query, key, value = (random(2, 3, tokens, 8, seed=seed).to(dtype) for seed in range(3))
    expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    before = query.clone()
    mixed = attend(query, key, value)
    assert mixed.dtype == dtype and mixed.shape == (2, 3, tokens, 8)
    torch.testing.assert_close(mixed.double(), expected, atol=TOLERANCE[dtype], rtol=0)
    assert torch.equal(query, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attend_with_more_keys_than_queries(dtype):
    query, key, value = random(2, 2, 9, 16).to(dtype), random(2, 2, 300, 16).to(dtype), random(2, 2, 300, 16, seed=2)
    expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    mixed = attend(query, key, value.to(dtype))
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
    for name in ("linear", "conv2d"):
        original = getattr(F, name)
        monkeypatch.setattr(F, name, lambda *a, name=name, original=original: called.append(name) or original(*a))
    for faster, path in ((True, "conv2d"), (False, "linear")):
        monkeypatch.setattr(linear, "convolutions_are_faster", lambda dtype, faster=faster: faster)
        called.clear()
        linear.linear(random(2, 3, 4), random(5, 4))
        assert called == [path]


def test_product_needs_as_many_of_both(monkeypatch):
    monkeypatch.setattr(linear, "convolutions_are_faster", lambda dtype: True)
    with pytest.raises(ValueError, match="shorter"):
        product(random(2, 3, 4), random(1, 3, 4))


@pytest.fixture
def unmeasured():
    """As in a process that has just begun."""
    linear.convolutions_are_faster.cache_clear()
    yield
    linear.convolutions_are_faster.cache_clear()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize(
    ("capability", "plain", "convolved", "faster"),
    [
        ("AVX512", 2.2, 1.0, True), ("AVX512", 1.0, 1.2, True), ("AVX512", 1.0, 1.3, False),
        ("AVX2", 2.2, 1.0, True), ("AVX2", 1.2, 1.0, False), ("AVX2", 1.0, 1.3, False),
    ],
)  # fmt: skip
def test_the_faster_way_is_measured_once_for_each_type(unmeasured, monkeypatch, capability, plain, convolved, faster):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    measured = []
    monkeypatch.delenv("PROXYCLIP_CPU_LINEAR", raising=False)
    monkeypatch.setattr(linear, "measure", lambda dtype: measured.append(dtype) or (plain, convolved))
    for _ in range(3):
        for dtype in (torch.float32, torch.bfloat16):
            assert linear.use_convolution(torch.zeros(1, 2, 3, dtype=dtype)) is faster
    assert measured == [torch.float32, torch.bfloat16]
    assert linear.use_convolution(torch.zeros(1, 2, 3, device="meta", dtype=torch.float16)) is False
    assert len(measured) == 2


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
def test_the_environment_chooses(unmeasured, monkeypatch):
    monkeypatch.setattr(linear, "measure", lambda dtype: pytest.fail("measured"))
    for value, expected in (("onednn", True), ("mkl", False)):
        monkeypatch.setenv("PROXYCLIP_CPU_LINEAR", value)
        linear.convolutions_are_faster.cache_clear()
        assert linear.convolutions_are_faster(torch.float32) is expected
    monkeypatch.setenv("PROXYCLIP_CPU_LINEAR", "fast")
    linear.convolutions_are_faster.cache_clear()
    with pytest.raises(InputError, match="PROXYCLIP_CPU_LINEAR is 'fast'; choose mkl or onednn"):
        linear.convolutions_are_faster(torch.float32)


def test_the_measurement_is_short_and_leaves_no_trace():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    linear.measure(torch.float32)  # the first one also sets oneDNN up
    start = time.thread_time()
    plain, convolved = linear.measure(torch.float32)
    assert time.thread_time() - start < 0.5
    assert 0.1 < plain / convolved < 10
    assert torch.get_num_threads() == 2 and torch.equal(torch.get_rng_state(), before)
    torch.set_num_threads(threads)


def test_what_one_slow_trial_says_does_not_count(monkeypatch):
    """Another process may take the processor away at any moment."""
    clock = iter([0, 1, 1, 2, *(10 * n + step for n in range(1, 2 * linear.TRIALS - 1) for step in (0, 5))])
    monkeypatch.setattr(linear.time, "thread_time" if linear.os.name != "nt" else "perf_counter", lambda: next(clock))
    assert linear.measure(torch.float32) == (1, 1)


@pytest.mark.parametrize("way", ["mkl", "onednn"])
def test_both_ways_agree_on_a_whole_model(unmeasured, monkeypatch, way):
    model, given = tiny_clip.model(), torch.rand(2, 3, 48, 72, generator=torch.Generator().manual_seed(1))
    text = F.normalize(random(3, 16), dim=1)
    scores = model.window_scores(given, text)
    monkeypatch.setenv("PROXYCLIP_CPU_LINEAR", way)
    linear.convolutions_are_faster.cache_clear()
    torch.testing.assert_close(model.window_scores(given, text), scores, atol=1e-5, rtol=0)


def test_compilers_decide_for_themselves(monkeypatch):
    monkeypatch.setattr(linear, "convolutions_are_faster", lambda dtype: True)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not linear.use_convolution(torch.zeros(1, 2, 3))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_measurement_is_of_onednn(dtype):
    """Small batches of 1 × 1 convolutions on one thread are left to other libraries."""
    with torch.profiler.profile() as profile:
        linear.measure(dtype)
    called = {event.key for event in profile.key_averages()}
    assert "aten::mkldnn_convolution" in called and "aten::_slow_conv2d_forward" not in called
