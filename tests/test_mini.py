"""The embedded pair: it loads as every other one does, knows the synthetic scenes, and warns about unknown words."""

import json
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
import torch

import proxyclip
from datasets import scenes
from proxyclip.errors import InputError
from proxyclip.evaluation.metrics import confusion, scores
from proxyclip.loading import MINI, find_preset
from proxyclip.methods.proxyclip import Options

SEEDS = list(scenes.SPLITS["tune"])[:8]


@pytest.fixture(scope="module")
def samples():
    return [scenes.draw(seed) for seed in SEEDS]


def miou(samples, **options) -> float:
    model, matrix = proxyclip.load("mini", **options), 0
    for result, (_, label) in zip(model.segment([image for image, _ in samples], scenes.CLASSES), samples, strict=True):
        matrix += confusion(result.labels, label, len(scenes.CLASSES)).numpy()
    return scores(matrix)["mIoU"]


def test_the_proxy_attention_helps(samples):
    vanilla, value, proxy = (miou(samples, method=method) for method in ("clip", "maskclip", "proxyclip"))
    assert proxy > 65
    assert proxy > value + 5
    assert value > vanilla + 20


def test_the_vfm_tells_instances_apart():
    """Two patches of one instance are more similar than two of different ones: the share of such pairs of pairs."""
    vfm, shares = proxyclip.load("mini").vfm, []
    for seed in SEEDS[:4]:
        scene = scenes.compose(seed)
        image = torch.from_numpy(scene.image[:64, :64]).permute(2, 0, 1)[None] / 255  # (1, 3, 64, 64)
        patches = scene.instances[:64, :64].reshape(16, 4, 16, 4).swapaxes(1, 2).reshape(256, 16)
        whole = np.flatnonzero((patches == patches[:, :1]).all(1))  # patches of one instance each
        with torch.inference_mode():
            features = torch.nn.functional.normalize(vfm(image)[0].flatten(1)[:, whole], dim=0)  # (C, N)
        first, second = np.triu_indices(len(whole), 1)
        similarity, owner = (features.T @ features).numpy()[first, second], patches[whole, 0]
        same, order = owner[first] == owner[second], similarity.argsort()
        below = np.cumsum(~same[order])[same[order]]  # for each pair of one instance, how many others are less similar
        shares.append(below.mean() / (~same).sum())
    assert np.mean(shares) > 0.94


def test_half_precision_changes_little(samples):
    assert abs(miou(samples, precision="bf16") - miou(samples)) < 2


def test_its_own_settings_are_used_and_can_be_replaced():
    stored = json.loads((MINI / "mini.json").read_text())
    model = proxyclip.load("mini")
    own = stored["options"] | stored["methods"]["proxyclip"] | {"templates": tuple(stored["options"]["templates"])}
    assert asdict(model.options) == asdict(Options()) | own and own["gamma"] == 20
    assert model.known_words == tuple(stored["known_words"])
    assert len(model.vfm.vit.blocks) == stored["vfm_layer"]
    assert proxyclip.load("mini", gamma=3.0).options.gamma == 3.0


def test_a_preset_s_options_belong_to_its_pair(tmp_path):
    """Another CLIP or VFM inside a preset takes the method's own values."""
    clip = tiny_clip.save_folder(tmp_path / "clip")
    model = proxyclip.load("mini", clip=clip)
    assert asdict(model.options) == asdict(Options()) and model.known_words is None
    assert len(model.vfm.vit.blocks) == find_preset("mini").vfm_layer  # the VFM is still the preset's
    vfm = find_preset("mini").vfm.removeprefix("dino:")
    copy = shutil.copytree(vfm, tmp_path / "vfm")
    model = proxyclip.load("mini", vfm=f"dino:{copy}")
    assert asdict(model.options) == asdict(Options()) and model.known_words is not None
    assert len(model.vfm.vit.blocks) > find_preset("mini").vfm_layer
    other = proxyclip.load("mini", method="maskclip", vfm=f"dino:{copy}")  # which uses no VFM
    assert other.options.crop == find_preset("mini").options["crop"]


def test_its_parameters_are_counted():
    model = proxyclip.load("mini", vfm_layer=4)
    count = sum(weight.numel() for weight in model.parameters())
    buffers = sum(weight.numel() for weight in model.buffers())
    assert count <= find_preset("mini").parameters <= count + buffers


def test_unknown_words_are_named():
    model = proxyclip.load("mini")
    image = np.zeros((64, 96, 3), np.uint8)
    with pytest.warns(UserWarning, match="was not trained on zebra, aardvark; it knows .*brick wall") as caught:
        model.segment(image, ["red car", "zebra; Car", "aardvark"])
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.segment(image, ["Red car", "brick wall", "sky; blue sky"])


def test_files_are_small_and_hold_tensors_only():
    files = [file for file in Path(MINI).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 8e6
    assert {file.suffix for file in files} == {".json", ".safetensors", ".gz", ".md"}


def test_a_synonym_never_lowers_a_class():
    """With the best name alone, "sea; ocean; water" loses all pixels to a threshold of 0.4."""
    model = proxyclip.load("mini", device="cpu")
    image = next(
        image
        for image, label in map(scenes.draw, range(100, 400))
        if (label == scenes.CLASSES.index("sea")).mean() > 0.3
    )
    one = model.segment(image, ["sea", "sky", "sand"], probabilities=["sea"])
    several = "sea; ocean; water"
    more = model.segment(image, [several, "sky", "sand"], probabilities=[several, "sky", "sand"], threshold=0.4)
    assert one.areas()["sea"] > 0.3 and more.areas()[several] > 0.9 * one.areas()["sea"]
    assert more.probabilities[several].mean() >= one.probabilities["sea"].mean() - 0.01
    np.testing.assert_allclose(sum(more.probabilities.values()), 1, atol=1e-5)
    assert more.settings["synonyms"] == "sum"
    best = model.segment(image, [several, "sky", "sand"], synonyms="best")
    assert best.settings["synonyms"] == "best" and best.confidence.mean() < more.confidence.mean()
    with pytest.raises(InputError, match="synonyms is 'all'"):
        model.segment(image, ["sea"], synonyms="all")
