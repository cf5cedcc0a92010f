"""Scores through torch.compile, whose graphs run as they are, and through OpenVINO: the same as PyTorch's."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._inductor.exc import TritonMissing

import eval as eval_script
import proxyclip
from proxyclip.backbones.backends import CompiledTower, converted
from proxyclip.backbones.precision import exact_float32
from proxyclip.errors import InputError
from proxyclip.folder import run as run_module
from proxyclip.loading import plan
from proxyclip.segmentor import Segmentor
from proxyclip.vocabulary import Vocabulary

NAMES = Vocabulary.parse(["sky", "sea", "grass"])
TOLERANCE = 1e-4  # of cosine similarities in float32, by OpenVINO


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
    eval_script.main([*arguments.split(), "--compile", "--workdir", str(tmp_path)])
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["protocol"]["compiled"] is True
    assert "compiled for batches of 12 windows" in capsys.readouterr().err


def mini(**choices):
    return proxyclip.load("mini", device="cpu", **choices)


@pytest.fixture(scope="module")
def openvino():
    return pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install .[openvino]")


@pytest.fixture(scope="module")
def compiled(openvino):
    return mini(backend="openvino")


def scene(height: int, width: int) -> torch.Tensor:
    """(3, H, W) in [0, 1]: smooth blobs."""
    noise = torch.rand(1, 3, height // 16, width // 16, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)[0]


def test_without_openvino_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"^backend openvino needs OpenVINO: .*pip install \.\[openvino\]$"):
        plan("mini", backend="openvino", device="cpu")


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"backend": "openvin"}, "unknown backend 'openvin'.*openvino"),
        ({"backend": None}, "unknown backend None"),
        ({"method": "naclip"}, "cannot run naclip: choose one of glaclip, maskclip, proxyclip, or backend torch"),
        ({"crop": 0}, "needs windows of one size"),
        ({"precision": "fp16"}, "with precision fp32 or bf16"),
    ],
)
def test_what_cannot_run_is_refused_before_weights_are_loaded(choices, sentence):
    with pytest.raises(InputError, match=sentence):
        plan("mini", **{"backend": "openvino", "device": "cpu"} | choices)


def test_it_excludes_torch_compile():
    model = mini(method="maskclip")
    model.openvino = SimpleNamespace()
    with pytest.raises(InputError, match="exclude each other"):
        model.compile_scores()


def test_processes_are_not_forked(monkeypatch):
    monkeypatch.setattr(run_module, "ShareProcess", lambda share, how: how)
    monkeypatch.setattr(run_module, "receive_all", lambda processes: processes)
    monkeypatch.setattr(run_module, "fork_all", lambda job, shares: ["fork"])
    two = run_module.ProcessSetup((None, None), 1, 0, forks=True)
    for options, how in (({}, ["fork"]), ({"backend": "openvino"}, ["spawn", "spawn"])):
        assert run_module.run(SimpleNamespace(model=SimpleNamespace(options=options)), ["a", "b"], two) == how


@pytest.mark.parametrize("method", ["proxyclip", "maskclip"])
def test_scores_and_labels_are_those_of_pytorch(openvino, compiled, method):
    ours, theirs = mini(method=method), compiled if method == "proxyclip" else mini(method=method, backend="openvino")
    image, text = scene(128, 208), ours.encode_classes(NAMES)
    with torch.no_grad():
        (own,), (other,) = (model.image_scores(image, text).views for model in (ours, theirs))
        torch.testing.assert_close(other.scores, own.scores, atol=TOLERANCE, rtol=0)
        assert not torch.equal(other.scores, own.scores)  # OpenVINO was at work
        labels = [model.predict(image, (250, 400), NAMES).labels for model in (ours, theirs)]
    assert len(labels[0].unique()) > 1 and (labels[0] == labels[1]).float().mean() >= 0.999
    assert theirs.settings() == ours.settings() | {"backend": f"openvino {openvino.__version__.partition('-')[0]}"}


def test_glaclip_runs_on_compiled_towers(compiled):
    """Its scores jump where a patch enters a set, so the towers are compared."""
    model, crops = mini(method="glaclip"), scene(64, 96).unfold(2, 64, 8).permute(2, 0, 1, 3)
    model.openvino = compiled.openvino  # of the same towers
    with torch.no_grad():
        torch.testing.assert_close(model.clip_values(crops), model.clip.values(crops), atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(model.vfm_features(crops), model.vfm(crops), atol=TOLERANCE, rtol=0)
        model.image_scores(scene(128, 128), model.encode_classes(NAMES))


def test_a_window_does_not_depend_on_its_batch(compiled):
    crops = torch.stack([*scene(64, 400).unfold(2, 64, 16).permute(2, 0, 1, 3)])  # (22, 3, 64, 64)
    size = compiled.batches(None).size
    assert size < len(crops) and len(crops) % size
    together = compiled.openvino.values(crops)
    alone = torch.cat([compiled.openvino.values(crop[None]) for crop in crops])
    assert torch.equal(together, alone) and not torch.equal(together[0], together[1])


def test_windows_of_another_size_run_through_pytorch(compiled):
    image, text = scene(48, 128), compiled.encode_classes(NAMES)
    with torch.no_grad():
        (own,), (other,) = (model.image_scores(image, text).views for model in (mini(), compiled))
    assert torch.equal(own.scores, other.scores)


def test_bf16_is_as_exact_as_pytorchs(openvino):
    exact, crops = mini(), scene(64, 96).unfold(2, 64, 8).permute(2, 0, 1, 3)
    models = [mini(precision="bf16", backend=backend) for backend in ("torch", "openvino")]
    with torch.no_grad():
        wanted = exact.clip_values(crops)
        found = [model.clip_values(crops) for model in models]
    own, other, rounded = (
        ((values.float() - wanted).norm() / wanted.norm()).item() for values in (*found, wanted.bfloat16())
    )
    assert found[1].dtype == torch.bfloat16 and 1.5 * rounded < other < 1.5 * own  # computed in bf16, not only returned


def test_a_tower_that_openvino_lacks_operations_for(openvino):
    tower = torch.nn.Conv2d(3, 3, 1)
    tower.name = "tower"
    with pytest.raises(InputError, match="^OpenVINO cannot run tower: .*bicubic2d_aa.*; choose backend torch$"):
        converted(tower, lambda x: F.interpolate(tower(x), (9, 9), mode="bicubic", antialias=True), (1, 3, 16, 16))


def test_another_size_than_the_compiled_one_is_an_error(openvino):
    """OpenVINO otherwise gives results of the batch before."""
    tower = torch.nn.Conv2d(3, 3, 1)
    compiled = CompiledTower(tower, tower.forward, (2, 3, 16, 16), torch.float32)
    with pytest.raises(RuntimeError):
        compiled.network([np.zeros((1, 3, 16, 16), np.float32)])


def test_eval_records_it(openvino, tmp_path, capsys):
    arguments = "--config scenes --model mini --method maskclip --device cpu --workers 0 --limit 1 --resume"
    for more in ([], ["--set", "backend=openvino"]):
        eval_script.main([*arguments.split(), *more, "--workdir", str(tmp_path)])
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["changed"].get("backend") for line in lines] == [None, "openvino"]
    assert not {"backend", "compiled"} & lines[0]["protocol"].keys() and lines[1]["protocol"]["backend"].startswith(
        "openvino 2"
    )
    assert lines[0]["protocol"]["weights"] == lines[1]["protocol"]["weights"]
    assert "compiled the image towers with OpenVINO for batches of 12 windows" in capsys.readouterr().err
