"""Which activation goes with a checkpoint of CLIP: named, recognised, or assumed with a warning."""

import json
import warnings

import pytest
import tiny_clip
import torch
from test_loading import write

from proxyclip.backbones import build_clip
from proxyclip.backbones.checkpoints import import_library
from proxyclip.errors import InputError


@pytest.fixture(autouse=True)
def tiny_trainings(tmp_path, monkeypatch):
    """open_clip knows the tiny CLIP as "Tiny-8", trained once with QuickGELU and once with GELU, and "Plain-8"."""
    open_clip = import_library("open_clip")
    for name, more in (("Tiny-8", {}), ("Tiny-8-quickgelu", {"quick_gelu": True}), ("Plain-8", {})):
        (tmp_path / f"{name}.json").write_text(json.dumps(tiny_clip.config() | more))
        open_clip.add_model_config(tmp_path / f"{name}.json")
    trainings = {"Tiny-8": {"openai": {"quick_gelu": True}, "laion2b_s1": {}, "datacomp": {}}}
    trainings["Tiny-8-quickgelu"] = {"openai": {"quick_gelu": True}}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: list(trainings.get(name, {})))
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: trainings.get(name, {}).get(tag, {}))


@pytest.fixture
def file(tmp_path):
    return write("state dict", tiny_clip.open_clip_model().state_dict(), tmp_path)


@pytest.fixture
def archive(tmp_path):
    return write("torchscript", tiny_clip.open_clip_model().state_dict(), tmp_path)


def silently(spec, *checkpoint):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return build_clip.load(spec, *checkpoint)


@pytest.mark.parametrize(
    ("spec", "activation"),
    [
        ("Tiny-8:openai", "QuickGELU"),
        ("Tiny-8:laion2b_s1", "GELU"),
        ("Tiny-8:random", "GELU"),
        ("Tiny-8-quickgelu", "QuickGELU"),
        ("Plain-8", "GELU"),
    ],
)
def test_a_named_training_or_an_architecture_of_one_kind_needs_no_warning(file, spec, activation):
    clip = silently(spec, file)
    assert clip.activation == activation
    block = clip.model.transformer.resblocks[0]
    assert type(block.mlp.gelu).__name__ == activation  # the text tower's too


@pytest.mark.parametrize("colon", [True, False])
def test_an_unnamed_training_is_assumed_aloud(file, colon):
    sentence = (
        f"{file} does not say which activation it was trained with: assuming QuickGELU, as in Tiny-8:openai. .*"
        "clip=Tiny-8:openai with checkpoint_clip=FILE for QuickGELU, clip=Tiny-8:laion2b_s1 with checkpoint_clip=FILE "
        "for GELU"
    )
    with pytest.warns(UserWarning, match=sentence):
        clip = build_clip.load(f"Tiny-8:{file}") if colon else build_clip.load("Tiny-8", file)
    assert clip.activation == "QuickGELU"
    assert clip.name == f"Tiny-8:{file.name}"  # a record does not claim weights that it does not know


def test_openai_s_archive_is_recognised(archive, monkeypatch):
    for spec, checkpoint in (("Tiny-8", [archive]), (f"Tiny-8:{archive}", []), ("Plain-8", [archive])):
        clip = silently(spec, *checkpoint)
        assert (clip.activation, clip.name) == ("QuickGELU", f"{spec.partition(':')[0]}:openai")


@pytest.mark.parametrize("spec", ["Tiny-8:laion2b_s1", "Tiny-8:random"])
def test_openai_s_archive_contradicts_another_training(archive, spec):
    with pytest.raises(InputError, match=f"{archive} is an OpenAI archive, trained with QuickGELU, but {spec} uses"):
        build_clip.load(spec, archive)


def test_openai_s_archive_in_a_folder(archive, tmp_path):
    folder = tiny_clip.save_folder(tmp_path / "clip")
    with pytest.raises(InputError, match="set quick_gelu to true in the folder's"):
        build_clip.load(folder, archive)
    folder = tiny_clip.save_folder(tmp_path / "clip", quick_gelu=True)
    assert silently(folder, archive).activation == "QuickGELU"


def test_the_activation_makes_a_difference(file):
    given = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    one, other = silently("Tiny-8:openai", file), silently("Tiny-8:laion2b_s1", file)
    assert not torch.equal(one.vanilla(given), other.vanilla(given))
    assert one.fingerprint != other.fingerprint


def test_weights_given_twice(file):
    with pytest.raises(InputError, match="weights are given twice"):
        build_clip.load(f"Tiny-8:{file}", file)


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-L-14", "ViT-H-14", "ViT-B-16-quickgelu"])
def test_the_published_trainings_are_read_as_open_clip_reads_them(monkeypatch, name):
    monkeypatch.undo()
    open_clip = import_library("open_clip")
    for tag in open_clip.list_pretrained_tags_by_model(name):
        published = open_clip.get_pretrained_cfg(name, tag)
        default = open_clip.get_model_config(name).get("quick_gelu", False)
        assert build_clip.uses_quick_gelu(name, tag) == published.get("quick_gelu", default)
