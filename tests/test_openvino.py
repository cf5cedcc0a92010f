"""The image towers compiled by OpenVINO: the same scores as PyTorch's, and what is refused."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import eval as eval_script
import proxyclip
from proxyclip.backbones.backends import CompiledTower, converted
from proxyclip.errors import InputError
from proxyclip.folder import crew
from proxyclip.loading import plan
from proxyclip.vocabulary import Vocabulary

NAMES = Vocabulary.parse(["sky", "sea", "grass"])
TOLERANCE = 1e-4  # of cosine similarities in float32


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
    monkeypatch.setattr(crew, "Worker", lambda target, how: how)
    monkeypatch.setattr(crew, "received", lambda workers: workers)
    monkeypatch.setattr(crew, "forked", lambda job, shares: ["fork"])
    two = crew.Crew((None, None), 1, 0, forks=True)
    for options, how in (({}, ["fork"]), ({"backend": "openvino"}, ["spawn", "spawn"])):
        assert crew.run(SimpleNamespace(model=SimpleNamespace(options=options)), ["a", "b"], two) == how


@pytest.mark.parametrize("method", ["proxyclip", "maskclip"])
def test_scores_and_labels_are_those_of_pytorch(openvino, method):
    ours, theirs = (mini(method=method, backend=backend) for backend in ("torch", "openvino"))
    image, text = scene(128, 208), ours.encode_classes(NAMES)
    with torch.no_grad():
        (own,), (other,) = (model.image_scores(image, text).views for model in (ours, theirs))
        torch.testing.assert_close(other.scores, own.scores, atol=TOLERANCE, rtol=0)
        assert not torch.equal(other.scores, own.scores)  # OpenVINO was at work
        labels = [model.predict(image, (250, 400), NAMES).labels for model in (ours, theirs)]
    assert len(labels[0].unique()) > 1 and (labels[0] == labels[1]).float().mean() >= 0.999
    assert theirs.settings() == ours.settings() | {"backend": f"openvino {openvino.__version__.partition('-')[0]}"}


def test_glaclip_runs_on_compiled_towers(openvino):
    """Its scores jump where a patch enters a set, so the towers are compared."""
    model, crops = mini(method="glaclip", backend="openvino"), scene(64, 96).unfold(2, 64, 8).permute(2, 0, 1, 3)
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
    assert "backend" not in lines[0]["protocol"] and lines[1]["protocol"]["backend"].startswith("openvino 2")
    assert lines[0]["protocol"]["weights"] == lines[1]["protocol"]["weights"]
    assert "compiled the image towers with OpenVINO for batches of 12 windows" in capsys.readouterr().err
