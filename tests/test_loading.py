"""Models by name, from files and folders; what cannot be loaded gets a sentence, before anything is built."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
import tiny_vfm
import torch
from safetensors.torch import save_file
from torch import nn

import proxyclip
from proxyclip.backbones import build_clip as load_clip
from proxyclip.backbones import vfm
from proxyclip.backbones.checkpoints import download, import_library, read_checkpoint
from proxyclip.backbones.precision import resolve_precision
from proxyclip.backbones.vfm import dino
from proxyclip.backbones.vfm._vit import Variant
from proxyclip.errors import InputError, NotFound
from proxyclip.loading import CLIPS, PAIRS, find_preset, plan, preset_names
from proxyclip.windows import SlidingWindows

CLASSES = ["cat", "dog; hound", "sky", "red car"]


@pytest.fixture(scope="module", autouse=True)
def tiny_names(tmp_path_factory):
    """open_clip knows the tiny CLIP as "Tiny-8", and we timm's smallest transformer as "dino-test"."""
    file = tmp_path_factory.mktemp("configs") / "Tiny-8.json"
    file.write_text(json.dumps(tiny_clip.config()))
    import_library("open_clip").add_model_config(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dino.VARIANTS, "test", Variant("test_vit", 0, ""))
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A CLIP and a DINO on disk, as `load` takes them."""
    folder = tmp_path_factory.mktemp("models")
    vfm = tiny_vfm.save_folder(folder / "vfm", "dino", tiny_vfm.timm_model("dino").state_dict())
    return {"clip": tiny_clip.save_folder(folder / "clip"), "vfm": f"dino:{vfm}"}


@pytest.fixture
def nothing_built(monkeypatch):
    """Building any CLIP or VFM fails the test."""

    def unexpected(*args, **kwargs):
        raise AssertionError("a model was built")

    monkeypatch.setattr(import_library("open_clip"), "CLIP", unexpected)
    monkeypatch.setattr(import_library("timm"), "create_model", unexpected)


def small(**options):
    """Options of `load` with windows that suit the tiny models."""
    return {"short_side": 0, "crop": 40, "stride": 24, "templates": "a {}", "device": "cpu", **options}


def same(one: nn.Module, other: nn.Module) -> bool:
    ones, others = one.state_dict(), other.state_dict()
    return ones.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in ones.items())


# Names


def test_presets_are_printed_and_returned(capsys):
    presets = proxyclip.presets()
    said = capsys.readouterr().out
    assert [preset.name for preset in presets] == preset_names()
    assert {
        "mini",
        "vitb16-dino",
        "vitl14-dino",
        "vith14-dino",
        "vitb16-dinov2",
        "vitb16-dinov3",
        "vitb16-mae",
        "vitb16-sam",
    } <= {preset.name for preset in presets}
    for preset in presets:
        about = said[said.index(preset.name) :]
        for part in (f"{preset.parameters / 1e6:.0f} M", f"{preset.megabytes / 1e3:.1f} GB", preset.licence):
            assert part in about
        for part in (Path(preset.clip).name, Path(preset.vfm).name, *preset.sources):
            assert part in about


@pytest.mark.parametrize("name", PAIRS)
def test_every_preset_resolves(name):
    preset = find_preset(name)
    assert preset.name == name
    open_clip = import_library("open_clip")
    architecture, tag, file = load_clip.parse(preset.clip)
    assert file is None and f"{architecture}:{tag}" == preset.clip
    published = open_clip.get_pretrained_cfg(architecture, tag)
    assert preset.sources[0] == "huggingface.co/" + published["hf_hub"].rstrip("/")
    assert published.get("quick_gelu", False) == (tag == "openai")
    family, variant = vfm.find(preset.vfm)
    facts = vfm.family(family).VARIANTS[variant]
    assert preset.sources[1] == f"huggingface.co/{facts.repository}"
    assert preset.parameters == CLIPS[preset.clip][0] + facts.parameters
    assert preset.megabytes == pytest.approx(preset.parameters * 4 / 1e6, abs=1)


@pytest.mark.parametrize("clip", CLIPS)
def test_parameters_of_the_presets_clips(clip):
    open_clip = import_library("open_clip")
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config(clip.partition(":")[0]))
    assert CLIPS[clip][0] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("ViT-B-16", ("ViT-B-16", "openai", None)),
        ("ViT-B/16", ("ViT-B-16", "openai", None)),
        ("ViT-L-14:laion2b_s32b_b82k", ("ViT-L-14", "laion2b_s32b_b82k", None)),
        ("ViT-H-14", ("ViT-H-14", "laion2b_s32b_b79k", None)),
        ("ViT-B-16:random", ("ViT-B-16", "random", None)),
        ("Tiny-8", ("Tiny-8", "random", None)),
    ],
)
def test_names_of_clips(spec, expected):
    assert load_clip.parse(spec) == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"preset": "vitb16-dyno"}, "unknown preset 'vitb16-dyno'; did you mean vitb16-dino"),
        ({"preset": "nonsense"}, "unknown preset 'nonsense'; Known: mini, vitb16-dino, "),
        ({"clip": "ViT-B-15:openai", "vfm": "dino"}, "unknown CLIP 'ViT-B-15'; did you mean .*ViT-B-16"),
        ({"clip": "ViT-B-16:opnai", "vfm": "dino"}, "unknown weights 'opnai' of CLIP ViT-B-16; did you mean openai"),
        ({"clip": "RN50:openai", "vfm": "dino"}, "CLIP 'RN50' is not supported.*standard vision transformer.*ViT-B-16"),
        ({"clip": "ViT-B-16", "vfm": "dino-vitb9"}, "unknown VFM 'dino-vitb9'; did you mean dino-vitb8"),
        ({"preset": "mini", "clip": ""}, "unknown"),
        ({"preset": "mini", "vfm": ""}, "unknown"),
        ({"preset": "vitb16-dino", "method": "proxiclip"}, "unknown method 'proxiclip'; did you mean proxyclip"),
        ({"preset": "vitb16-dino", "betta": 1.2}, "method proxyclip has no option 'betta'; did you mean beta"),
        ({"preset": "vitb16-dino", "method": "maskclip", "beta": 1.2}, "method maskclip has no option 'beta'"),
        ({"preset": "vitb16-dino", "beta": "1.2"}, "beta must be a finite number, not '1.2'"),
        ({"preset": "vitb16-dino", "logit_scale": 0}, "logit_scale is 0.0; it must be positive"),
        ({"preset": "vitb16-dino", "device": "gpu"}, "unknown device 'gpu'.*Known: auto, cpu, cuda, mps"),
        ({"preset": "vitb16-dino", "precision": "fp61"}, "unknown precision 'fp61'; did you mean fp16"),
        ({}, "name a preset, or a clip and a vfm; presets: mini, vitb16-dino"),
        ({"clip": "ViT-B-16"}, "name a preset, or a clip and a vfm"),
        ({"vfm": "dino"}, "name a preset, or a clip and a vfm"),
        ({"preset": "vitb16-dino", "crop": -1}, "crop -1 and stride 112 must be positive"),
        ({"preset": "vitb16-dino", "stride": 0}, "stride 0 must be positive"),
        ({"preset": "vitb16-dino", "crop": 100}, "stride 112 above crop 100 would leave gaps"),
        ({"preset": "vitb16-dino", "short_side": -1}, "short_side is -1"),
        ({"preset": "vitb16-dino", "beta": -0.1}, "beta is -0.1 and gamma 3.0"),
        ({"preset": "vitb16-dino", "gamma": 0}, "gamma 0.0; .* gamma must be positive"),
        ({"preset": "vitb16-dino", "templates": ["a photo"]}, "template 'a photo' has no {}"),
        ({"preset": "vitb16-dino", "templates": []}, "templates is empty"),
    ],
    ids=str,
)
def test_values_that_cannot_be(nothing_built, options, sentence):
    with pytest.raises(InputError, match=sentence):
        proxyclip.load(**options)


@pytest.mark.parametrize("option", ["checkpoint_clip", "checkpoint_vfm"])
def test_checkpoint_that_does_not_exist(nothing_built, option):
    with pytest.raises(NotFound, match="checkpoint /no/such.pt does not exist"):
        proxyclip.load("vitb16-dino", **{option: "/no/such.pt"})
    with pytest.raises(NotFound, match="CLIP checkpoint /no/such.pt does not exist"):
        proxyclip.load(clip="ViT-B-16:/no/such.pt", vfm="dino")


@pytest.mark.parametrize(
    ("windows", "clip", "sentence"),
    [
        ((7, 4), {}, "crop 7 is smaller than one patch of 8 pixels; choose crop >= 8"),
        ((8, 4), {"vision": {"patch_size": 16}}, "crop 8 is smaller than one patch of 16 pixels"),
    ],
)
def test_crop_smaller_than_a_patch(windows, clip, sentence):
    with pytest.raises(InputError, match=sentence):
        tiny_clip.model(crop=windows[0], stride=windows[1], clip=tiny_clip.clip(**clip))


# Weights that are not there


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("clip", ["ViT-B-16:openai", "ViT-H-14", "ViT-L-14:datacomp_xl_s13b_b90k"])
def test_weights_of_a_clip_neither_cached_nor_reachable(nothing_built, empty_cache, clip):
    sentence = (
        f"the weights of CLIP {clip}.* are neither in the cache {empty_cache} nor reachable .HF_HUB_OFFLINE is set.. "
        "Download https://huggingface.co/.*/resolve/main/open_clip_.* where there is a network, "
        "and pass it with --checkpoint-clip FILE"
    )
    with pytest.raises(NotFound, match=sentence):
        load_clip.load(clip)


def test_weights_of_a_vfm_neither_cached_nor_reachable(nothing_built, empty_cache):
    with pytest.raises(NotFound, match="weights of VFM vit_base_patch8_224.dino .*--checkpoint-vfm FILE"):
        proxyclip.load(clip="ViT-B-16:random", vfm="dino-vitb8")


def test_weights_are_taken_from_the_cache(empty_cache, monkeypatch):
    """The first of the names that is there, as huggingface_hub lays files out."""
    snapshot = empty_cache / "models--some--clip" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "second.bin").write_bytes(b"weights")
    reference = empty_cache / "models--some--clip" / "refs" / "main"
    reference.parent.mkdir()
    reference.write_text("abc")
    from huggingface_hub import try_to_load_from_cache

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a: try_to_load_from_cache(*a, empty_cache))
    assert download("some/clip", ("first.bin", "second.bin"), "CLIP", "--flag").read_bytes() == b"weights"
    with pytest.raises(NotFound, match="Download https://huggingface.co/some/clip/resolve/main/first.bin"):
        download("some/clip", ("first.bin",), "CLIP", "--flag")


# Checkpoints of CLIP


class Archive(nn.Module):
    """Holds parameters under the names of a CLIP, with the numbers that OpenAI's archives carry along."""

    def __init__(self, state: dict):
        super().__init__()
        for name, value in state.items():
            module = self
            *path, last = name.split(".")
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]
            module.register_parameter(last, nn.Parameter(value, requires_grad=False))
        for name, number in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(number))

    def forward(self, x):
        return x


def write(layout: str, state: dict, folder: Path) -> Path:
    """The weights as they are published in one of several ways."""
    file = folder / ("clip.safetensors" if layout == "safetensors" else "clip.pt")
    if layout == "safetensors":
        save_file(state, file)
    elif layout == "torchscript":
        torch.jit.save(torch.jit.trace(Archive({k: v.half() for k, v in state.items()}), torch.zeros(1)), file)
    elif layout == "training":
        wrapped = {f"module.{name}": value for name, value in state.items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": {"lr": 0.1}}, file)
    else:
        torch.save(state, file)
    return file


@pytest.mark.parametrize("layout", ["state dict", "safetensors", "training", "torchscript"])
def test_checkpoints_of_clip(tmp_path, layout):
    clip = tiny_clip.open_clip_model()
    state = {name: (value * 1.5).contiguous() for name, value in clip.state_dict().items()}
    if layout == "torchscript":  # half precision loses digits
        state = {name: value.half().float() for name, value in state.items()}
    file = write(layout, state, tmp_path)
    for loaded in (load_clip.load("Tiny-8", file), load_clip.load(f"Tiny-8:{file}")):
        own = loaded.model.state_dict()
        assert own.keys() == state.keys()
        assert all(torch.equal(own[name], value) for name, value in state.items())
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
        assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


def test_folder_of_open_clip(folders):
    loaded = load_clip.load(folders["clip"])
    assert same(loaded.model, tiny_clip.open_clip_model())
    assert loaded.tokenizer(["a cat"]).shape == (1, 77)
    assert loaded.mean == import_library("open_clip").OPENAI_DATASET_MEAN


def test_settings_of_a_folder(tmp_path):
    folder = Path(tiny_clip.save_folder(tmp_path / "clip", text={"context_length": 20}, quick_gelu=True))
    settings = json.loads((folder / "open_clip_config.json").read_text())
    settings["preprocess_cfg"] = {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    loaded = load_clip.load(str(folder))
    assert (loaded.mean, loaded.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert loaded.tokenizer(["a cat"]).shape == (1, 20)
    assert type(loaded.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


@pytest.mark.parametrize("text", ["{", "{}", '{"model_cfg": {}}', '{"model_cfg": {"text_cfg": {}}}', "[]"])
def test_folder_whose_settings_cannot_be_read(tmp_path, text):
    (tmp_path / "open_clip_config.json").write_text(text)
    with pytest.raises(InputError, match="open_clip_config.json is not a valid open_clip configuration"):
        load_clip.load(str(tmp_path))


def test_folder_without_settings_or_weights(tmp_path, nothing_built):
    with pytest.raises(NotFound, match="has no open_clip_config.json"):
        load_clip.load(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": tiny_clip.config()}))
    with pytest.raises(NotFound, match="has no weights: expected open_clip_model.safetensors"):
        load_clip.load(str(tmp_path))


def test_checkpoint_of_another_architecture(tmp_path):
    state = tiny_clip.open_clip_model(vision={"layers": 1, "patch_size": 16}).state_dict()
    state["extra.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(InputError) as caught:
        load_clip.load("Tiny-8", tmp_path / "other.pt")
    message = str(caught.value)
    assert f"{tmp_path / 'other.pt'} does not match the model's architecture: 12 missing (" in message
    assert "visual.transformer.resblocks.1.attn.in_proj_bias" in message
    assert "1 unexpected (extra.weight)" in message
    assert "2 of another shape (visual.positional_embedding is (5, 32), not (17, 32)" in message


class Evil:
    """A pickle that runs code when it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (os.mkdir, (str(self.file),))


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth", ""])
@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_with_an_object_is_refused_and_not_run(tmp_path, suffix, old):
    file, trace = tmp_path / f"clip{suffix}", tmp_path / "it ran"
    state = tiny_clip.open_clip_model().state_dict() | {"evil": Evil(trace)}
    torch.save(state, file, _use_new_zipfile_serialization=not old)
    for read in (lambda: read_checkpoint(file, torchscript=True), lambda: load_clip.load("Tiny-8", file)):
        with pytest.raises(InputError, match="is rejected: it contains Python objects besides tensors"):
            read()
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # so the test would have noticed


@pytest.mark.parametrize("layout", ["state dict", "safetensors", "torchscript"])
def test_truncated_checkpoint(tmp_path, layout):
    state = {"weight": torch.zeros(3000)}
    file = write(layout, state, tmp_path)
    file.write_bytes(file.read_bytes()[:-900])
    with pytest.raises(InputError, match=f"checkpoint {file} cannot be read .*damaged"):
        read_checkpoint(file, torchscript=True)


@pytest.mark.parametrize("content", [torch.zeros(3), {"weights": 3}, [torch.zeros(1)], {}], ids=str)
def test_checkpoint_without_named_tensors(tmp_path, content):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(InputError, match="contains no named tensors"):
        read_checkpoint(tmp_path / "odd.pt")


def test_checkpoint_that_is_a_folder_or_text(tmp_path):
    with pytest.raises(InputError, match="is a folder: name one file"):
        read_checkpoint(tmp_path)
    (tmp_path / "notes.pt").write_text("not a checkpoint")
    with pytest.raises(InputError, match=r"notes.pt (cannot be read|is rejected)"):
        read_checkpoint(tmp_path / "notes.pt")
    with pytest.raises(NotFound, match="does not exist"):
        read_checkpoint(tmp_path / "none.pt")


# Whole models


def test_load_hands_everything_on(folders):
    model = proxyclip.load(
        **folders, beta=1.1, gamma=4.0, short_side=50, crop=48, stride=16, templates=["the {}"],
        vfm_features="k", vfm_layer=2, device="cpu",
    )  # fmt: skip
    assert isinstance(model, proxyclip.Segmentor) and not model.training
    assert model.settings() == {
        "method": "ProxyCLIP", "clip": folders["clip"], "clip_activation": "GELU", "vfm": folders["vfm"] + " k layer 2",
        "beta": 1.1, "gamma": 4.0, "short_side": 50,
        "crop": 48, "stride": 16, "multiple": 56, "logit_scale": 40.0, "templates": 1, "two_steps": False, "area": 0.0,
        "precision": "float32", "linear": "onednn", "tf32": False,
    }  # fmt: skip
    assert model.windows == SlidingWindows(48, 16, 56, min_side=8) and model.templates == ("the {}",)
    assert model.vfm.features == "k" and len(model.vfm.vit.blocks) == 2


@pytest.mark.parametrize(("method", "printed"), [("maskclip", "MaskCLIP"), ("clip", "CLIP")])
def test_methods_that_need_no_vfm(folders, method, printed):
    model = proxyclip.load(clip=folders["clip"], **small(method=method))
    assert model.vfm is None
    result = model.segment(tiny_clip.photograph(50, 70), CLASSES)
    assert result.settings["vfm"] is None and result.settings["method"] == printed


def test_preset_with_files(tmp_path, monkeypatch):
    """A preset's own names, the weights from files."""
    monkeypatch.setitem(PAIRS, "tiny", ("Tiny-8", "dino-test"))
    monkeypatch.setitem(CLIPS, "Tiny-8", (0, "", ""))
    torch.save(tiny_clip.open_clip_model().state_dict(), tmp_path / "clip.pt")
    vit = import_library("timm").create_model("test_vit", num_classes=0)
    torch.save(vit.state_dict(), tmp_path / "vfm.pt")
    model = proxyclip.load(
        "tiny", checkpoint_clip=tmp_path / "clip.pt", checkpoint_vfm=tmp_path / "vfm.pt", **small(crop=48)
    )
    assert same(model.clip.model, tiny_clip.open_clip_model()) and same(model.vfm.vit, vit)
    other = proxyclip.load("tiny", clip="Tiny-8:random", checkpoint_vfm=tmp_path / "vfm.pt", **small(crop=48))
    assert not same(other.clip.model, model.clip.model)  # a name given beside a preset replaces the preset's


def test_random_weights_are_always_the_same_and_draw_nothing():
    torch.manual_seed(3)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    models = [proxyclip.load(clip="Tiny-8:random", vfm="dino-test:random", **small(crop=48)) for _ in range(2)]
    assert same(*models)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    torch.manual_seed(4)
    again = proxyclip.load(clip="Tiny-8:random", vfm="dino-test:random", **small(crop=48))
    assert same(again, models[0])


@pytest.mark.parametrize(("precision", "near"), [("bf16", 0.03), ("fp16", 0.004)])
def test_half_precision_is_near(folders, precision, near):
    photograph = tiny_clip.photograph(61, 83)
    exact = proxyclip.load(**folders, **small()).segment(photograph, CLASSES)
    model = proxyclip.load(**folders, **small(precision=precision))
    assert model.clip.dtype == next(model.vfm.parameters()).dtype == resolve_precision(precision, model.device)
    result = model.segment(photograph, CLASSES)
    assert result.settings["precision"] == {"bf16": "bfloat16", "fp16": "float16"}[precision]
    difference = np.abs(result.confidence - exact.confidence)
    assert 0 < difference.mean() < near
    assert (result.labels == exact.labels).mean() > 0.9


def test_results_do_not_depend_on_what_was_called_before(folders):
    photograph, other = tiny_clip.photograph(61, 83), tiny_clip.photograph(90, 41, seed=4)
    fresh = proxyclip.load(**folders, **small()).segment(photograph, CLASSES)
    used = proxyclip.load(**folders, **small())
    used.segment([other, photograph], ["sky", "tree"], threshold=0.9, batch_windows=5)
    used.segment(other, CLASSES[::-1], probabilities=["sky"])
    for _ in range(2):
        result = used.segment(photograph, CLASSES)
        assert np.array_equal(result.labels, fresh.labels)
        assert np.array_equal(result.confidence, fresh.confidence)
        assert result.settings == fresh.settings


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", f"folder/{'x' * 5000}/file"])
def test_paths_that_cannot_be(path):
    for chosen in (
        {"checkpoint_clip": path},
        {"checkpoint_vfm": path},
        {"clip": path},
        {"clip": f"ViT-B-16:{path}.pt"},
    ):
        with pytest.raises((InputError, NotFound)):
            plan("mini", **chosen)
    for chosen in (f"dino:{path}", f"sam-vitb:{path}", f"hf:{path}"):
        with pytest.raises((InputError, NotFound)):
            plan("mini", vfm=chosen).build()


def test_a_folder_without_a_clip(tmp_path):
    for used in (load_clip.image_encoder, load_clip.load):
        with pytest.raises(NotFound, match=r"no open_clip_config\.json"):
            used(str(tmp_path))


def test_multiple_0_pads_to_whole_patches_of_clip():
    model = proxyclip.load("mini", multiple=0, device="cpu")
    assert model.windows.multiple == model.clip.patch_size > 1
