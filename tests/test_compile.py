"""Scores through torch.compile; graphs are captured but run as they are, for building kernels takes minutes."""

import json

import pytest
import torch
from torch._inductor.exc import TritonMissing

import eval as eval_script
import proxyclip
from proxyclip.backbones.precision import exact_float32
from proxyclip.errors import InputError
from proxyclip.segmentor import Segmentor
from proxyclip.vocabulary import Vocabulary

NAMES = Vocabulary.parse(["sky", "sea", "grass"])


@pytest.mark.parametrize("method", ["proxyclip", "naclip"])
def test_one_graph_on_an_accelerator(method):
    """Which takes other ways than a CPU; the device "meta" takes those of an accelerator."""
    text = proxyclip.load("mini", method=method, device="cpu").encode_classes(NAMES).to("meta")
    model = proxyclip.load("mini", method=method, device="cpu").to("meta")
    one_graph = torch.compile(model.window_scores, backend="eager", fullgraph=True)
    with torch.no_grad(), exact_float32(model.device):
        assert one_graph(torch.empty(2, 3, 64, 48, device="meta"), text).shape[:2] == (2, 3)


@pytest.mark.parametrize("method", ["proxyclip", "naclip"])
def test_one_graph_with_the_same_scores(method):
    model = proxyclip.load("mini", method=method, device="cpu")
    crops, text = torch.rand(2, 3, 64, 48), model.encode_classes(NAMES)
    one_graph = torch.compile(model.window_scores, backend="eager", fullgraph=True)
    with torch.no_grad():
        plain = model.window_scores(crops, text)
        torch.testing.assert_close(one_graph(crops, text), plain, atol=1e-5, rtol=0)


def test_every_shape_is_compiled_once_and_says_so(capsys):
    model = proxyclip.load("mini", method="maskclip", device="cpu")
    model.compile_scores("eager")
    assert model.compiled
    image = torch.rand(3, 64, 96)
    for _ in range(3):
        model.predict(image, (64, 96), NAMES, batch_windows=2)
    first = capsys.readouterr().err
    assert first.startswith("compiled for batches of 2 windows of 64x64 pixels in ") and first.count("\n") == 1
    model.predict(image, (64, 96), NAMES, batch_windows=1)
    assert capsys.readouterr().err.count("compiled for batches of 1 windows") == 1


def test_more_shapes_than_torch_compiles_by_itself(capsys):
    graphs = []
    model = proxyclip.load("mini", method="maskclip", device="cpu")
    model.compile_scores(lambda graph, inputs: graphs.append(inputs) or graph)
    text = model.encode_classes(NAMES)
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=2, accumulated_recompile_limit=3):
        for count in range(1, 5):
            model.window_scores(torch.rand(count, 3, 16, 16), text)
    assert len(graphs) == capsys.readouterr().err.count("compiled for batches of") == 4


def test_a_method_over_all_windows_is_refused():
    with pytest.raises(InputError, match="GLA-CLIP cannot be compiled"):
        proxyclip.load("mini", method="glaclip", device="cpu").compile_scores()


@pytest.mark.parametrize(("error", "reason"), [
    (RuntimeError("no C++ compiler was found\nsecond line"), "no C\\+\\+ compiler was found"),
    (TritonMissing(None), "Cannot find a working triton installation.*"),
])  # fmt: skip
def test_a_compiler_that_does_not_work_is_one_sentence(error, reason):
    def broken(graph, inputs):
        raise error

    model = proxyclip.load("mini", method="maskclip", device="cpu")
    model.compile_scores(broken)
    with pytest.raises(InputError, match=f"^torch.compile does not work on this machine: {reason}$"):
        model.predict(torch.rand(3, 64, 64), (64, 64), NAMES)


def test_eval_compiles_and_records_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Segmentor.compile_scores, "__defaults__", ("eager",))
    arguments = "--config scenes --model mini --method maskclip --device cpu --workers 0 --limit 1 --resume"
    for more in ([], ["--compile"]):
        eval_script.main([*arguments.split(), *more, "--workdir", str(tmp_path)])
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["protocol"].get("compiled") for line in lines] == [None, True]
    assert "compiled for batches of 12 windows" in capsys.readouterr().err
