"""The tiny world's training: its vocabulary, its data, its losses, going on after a stop, and the files it ships."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import scenes
from proxyclip.backbones import build_clip as load_clip
from proxyclip.backbones import vfm
from proxyclip.backbones.checkpoints import import_library
from tools import mini_clip, mini_data, mini_vfm, train_mini

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "proxyclip" / "mini"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return mini_data.Scenes(mini_data.generate_once(tmp_path_factory.mktemp("data"), 24, workers=1))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "vocabulary.txt.gz"
    mini_data.write_vocabulary(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(vocabulary):
    return import_library("open_clip.tokenizer").SimpleTokenizer(str(vocabulary))


@pytest.fixture
def lesson(tokenizer):
    torch.manual_seed(0)
    config = mini_clip.model_config(tokenizer.vocab_size, "unused")
    return mini_clip.Lesson(mini_clip.new_clip(config))


def test_vocabulary_splits_known_words_as_the_full_one_does(vocabulary, tmp_path):
    tokenizers = import_library("open_clip.tokenizer")
    full, small = tokenizers.SimpleTokenizer(), tokenizers.SimpleTokenizer(str(vocabulary))
    assert small.vocab_size < 2500
    words = mini_data.known_words()
    assert {"umbrella", "toadstool", "violet", "jpeg", "origami"} <= set(words)
    for word in words:
        assert [small.decoder[k] for k in small.encode(word)] == [full.decoder[k] for k in full.encode(word)]
    assert vocabulary.read_bytes()[4:8] == bytes(4)  # no time of writing in it: the same bytes every time
    mini_data.write_vocabulary(tmp_path / "again.gz")
    assert (tmp_path / "again.gz").read_bytes() == vocabulary.read_bytes()


def test_drawn_scenes_are_the_generators(data):
    scene = scenes.compose(scenes.SPLITS["train"][5])
    assert (data.images[5] == scene.image).all() and (data.instances[5] == scene.instances).all()
    for (name, colour), row in zip(scene.parts, data.parts[5], strict=False):
        assert (name, colour) == (scenes.CLASSES[row[0]], mini_data.COLOUR_NAMES[row[1]])


def test_crops_and_what_is_seen_in_them(data):
    numbers, tops, lefts = places = data.places(np.random.default_rng(0), 8, 40, on_things=1.0)
    crops, shares = data.cut(places, 40, 40), data.shares(places, 40)
    assert crops.shape == (8, 3, 40, 40) and np.allclose(shares.sum(1), 1)
    for crop, share, n, y, x in zip(crops, shares, numbers, tops, lefts, strict=True):
        assert (crop.permute(1, 2, 0).numpy() == data.images[n, y : y + 40, x : x + 40]).all()
        assert share[3] == (data.instances[n, y : y + 40, x : x + 40] == 3).mean()


def test_crops_show_things_where_wanted(data):
    numbers, tops, lefts = data.places(np.random.default_rng(0), 50, 40, on_things=1.0)
    for n, top, left in zip(numbers, tops, lefts, strict=True):
        table = data.parts[n].astype(int)
        things = table[(table[:, 0] >= mini_data.FIRST_THING) & (table[:, 0] < 255)]
        x, y = np.clip(things[:, 2] - 20, 0, 88), np.clip(things[:, 3] - 20, 0, 88)  # lefts and tops right on a thing
        assert ((abs(x - left) <= 11) & (abs(y - top) <= 11)).any()


def test_crop_batch_mirrors_half(data):
    images, parts, shares = mini_data.crop_batch(data, np.random.default_rng(0), 16, (26, 49), 32, 0.5)
    assert images.shape == (16, 3, 32, 32) and images.dtype == torch.uint8
    assert parts.shape == (16, mini_data.MOST_PARTS, 4) and shares.shape == (16, mini_data.MOST_PARTS)


def test_phrases_are_true_where_the_part_is_seen():
    sea, car, ball = (scenes.CLASSES.index(name) for name in ("sea", "car", "ball"))
    red, blue = (mini_data.COLOUR_NAMES.index(name) for name in ("red", "blue"))
    parts = np.full((2, mini_data.MOST_PARTS, 4), 255, np.uint8)
    parts[:, :4, :2] = [(sea, blue), (car, red), (car, blue), (ball, blue)]
    shares = np.zeros((2, mini_data.MOST_PARTS))
    shares[0, :4], shares[1, :4] = (0.9, 0.1, 0.0, 0.0), (0.495, 0.0, 0.5, 0.005)
    texts, targets, counted = mini_data.phrases(parts, shares, scenes.Dice(0))
    assert targets[:, sea].tolist() == [1, 1] and targets[:, car].tolist() == [1, 1] and targets[:, ball].sum() == 0
    assert counted[:, car].tolist() == [1, 1] and counted[:, ball].tolist() == [1, 0]  # a trace of ball: not asked
    red_car = next(k for k, text in enumerate(texts) if "red" in text)
    assert targets[:, red_car].tolist() == [1, 0] and len(texts) == 24 + 3


def test_training_sees_what_the_engine_uses(lesson):
    """The value path that the loss teaches is the engine's own, and so is the text tower."""
    lesson.eval()
    crops = torch.rand(2, 3, 64, 64)
    engine = load_clip.DenseCLIP(lesson.clip.eval(), None, mini_clip.MEAN, mini_clip.DEVIATION, "tiny")
    with torch.inference_mode():
        whole, patches = lesson.embed_images((crops - lesson.mean) / lesson.deviation)
        expected = engine.project(engine.values(crops).flatten(2).mT)
        assert torch.allclose(patches, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5)
        image = lesson.clip.encode_image((crops - lesson.mean) / lesson.deviation, normalize=True)
        assert torch.allclose(whole, image, atol=1e-5)
        tokens = torch.randint(1, 2000, (3, 32))
        tokens[range(3), [9, 6, 3]] = lesson.clip.vocab_size - 1  # where each text ends
        expected = lesson.clip.encode_text(tokens, normalize=True)
        assert torch.allclose(lesson.embed_texts(tokens[:, :10]), expected, atol=1e-5)


def test_clip_learns(lesson, data, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(mini_clip, "BATCH", 32)
    batches = [mini_clip.make_batch(data, tokenizer, 0, step) for step in range(12)]
    batch = next(batch for batch in batches if "captions" not in batch)
    before = lesson(batch)[1]["patch"]
    optimizer = train_mini.adamw(lesson, 2e-3, (0.9, 0.98))
    train_mini.train("test", lesson, optimizer, lambda step: batch, 25, tmp_path / "clip.pt")
    assert lesson(batch)[1]["patch"] < 0.75 * before
    wide = next(batch for batch in batches if "captions" in batch)
    assert "caption" in lesson(wide)[1]


def test_grouping_prefers_features_that_know_what_is_near_and_alike(data, monkeypatch):
    images, places, colours = batch = mini_vfm.pair_batch(data, np.random.default_rng(0), 4)
    assert images.shape == (8, 3, 64, 64) and places.shape == (8, 256, 2) and colours.shape == (8, 256, 3)
    assert places.min() >= 0 and places.max() <= mini_data.SIDE and colours.max() <= 1
    torch.manual_seed(0)
    scene = torch.randn(4, 1, 64).repeat(2, 1, 1)
    by_place, by_colour = places @ torch.randn(2, 64) / 16, colours @ torch.randn(3, 64) * 10

    def loss_with(angles, batch=batch):
        torch.manual_seed(0)
        features = torch.cat([angles.sin(), angles.cos()], -1)  # (8, 256, 128)
        monkeypatch.setattr(mini_vfm, "encode", lambda vit, patches: features)
        return mini_vfm.Grouping(mini_vfm.new_vfm())(batch)[0].item()

    best = loss_with(scene + by_place / 4 + by_colour)
    assert best < loss_with(scene + by_place / 4 + by_colour.roll(1, 1)) - 0.3
    assert best < loss_with(scene + by_place * 4 + by_colour) - 0.3
    assert best < loss_with(by_colour * 0 + by_place / 4) - 0.3
    assert best < loss_with(torch.randn(8, 256, 64) * 9) - 1
    one_colour = images, places, torch.zeros_like(colours)
    misplaced = torch.cat([by_place[:4], by_place[4:].roll(100, 1)])
    assert loss_with(scene + by_place, one_colour) < loss_with(scene + misplaced, one_colour) - 1
    assert loss_with(scene.expand(-1, 256, -1) * 9) < 0.5  # patches of the same scene are never told apart


def test_repainting_puts_the_patches_back_in_their_places(data):
    torch.manual_seed(0)
    patches, order = torch.randn(2, 256, 8), torch.rand(2, 256).argsort(1)
    restored = mini_vfm._in_place(mini_vfm._at(patches, order[:, :64]), torch.full((1, 1, 8), 9.0), order)
    for crop in range(2):
        visible, hidden = order[crop, :64], order[crop, 64:]
        assert (restored[crop, visible] == patches[crop, visible]).all() and (restored[crop, hidden] == 9).all()
    images = data.cut(data.places(np.random.default_rng(0), 2, 64, 0), 64, 64)
    loss, _ = mini_vfm.Reconstruction(mini_vfm.new_vfm())(images)
    assert loss.requires_grad and 0 < loss.item() < 10


def test_places_of_patches_are_those_of_their_pixels():
    """In scenes whose colours are coordinates, red grows with x and green with y of the stated places."""
    ramp = np.zeros((1, mini_data.SIDE, mini_data.SIDE, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = 60 + np.arange(mini_data.SIDE), 60 + np.arange(mini_data.SIDE)[:, None]
    coordinates = object.__new__(mini_data.Scenes)
    coordinates.images, coordinates.parts = ramp, np.full((1, mini_data.MOST_PARTS, 4), 255, np.uint8)
    for seed in range(5):
        images, places, _ = mini_vfm.pair_batch(coordinates, np.random.default_rng(seed), 2)
        patches = torch.nn.functional.avg_pool2d(images, mini_vfm.PATCH).flatten(2)  # (4, 3, 256)
        for colours, where in zip(patches.numpy(), places.numpy(), strict=True):
            assert np.corrcoef(colours[0], where[:, 1])[0, 1] > 0.99
            assert np.corrcoef(colours[1], where[:, 0])[0, 1] > 0.99
            slope = np.ptp(colours[0]) / np.ptp(where[:, 1])
            assert 0.75 < slope < 1.3  # the light changes it a little, a wrong side would change it more


class Noisy(torch.nn.Linear):
    """A lesson with random numbers; it is interrupted at the batch `stop_at`."""

    stop_at = None

    def forward(self, batch):
        if batch == self.stop_at:
            raise KeyboardInterrupt
        return (super().forward(torch.randn(2, 4)) - batch).square().mean(), {}


def test_goes_on_after_a_stop_as_if_never_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(train_mini, "EVERY", 2)

    def run(file, stop_at=None):
        torch.manual_seed(0)
        module = Noisy(4, 4)
        module.stop_at = stop_at
        optimizer = train_mini.adamw(module, 0.1, (0.9, 0.98))
        train_mini.train("test", module, optimizer, lambda step: step, 9, tmp_path / file)
        return module.weight

    expected = run("straight.pt")
    with pytest.raises(KeyboardInterrupt):
        run("stopped.pt", stop_at=5)
    assert torch.equal(run("stopped.pt"), expected)


def test_smoke_run_of_the_whole_chain(tmp_path, capsys):
    command = ["--all", "--smoke", "--threads", "1", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    train_mini.main(command)
    assert "generating scenes" in capsys.readouterr().err
    _check_files(tmp_path / "out")
    train_mini.main(command)
    assert "generating scenes" not in capsys.readouterr().err  # what is complete is not done again


@pytest.mark.skipif(not (SHIPPED / "mini.json").exists(), reason="the embedded models are not trained yet")
def test_shipped_files():
    _check_files(SHIPPED)
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) <= 8e6
    assert (SHIPPED / "MODEL_CARD.md").stat().st_size > 1000
    trained_with = (SHIPPED / "clip" / "vocabulary.txt.gz").read_bytes()
    assert trained_with[:2] == b"\x1f\x8b"


def _check_files(folder):
    """The folder holds a CLIP and a VFM that load as real ones do, and settings that fit them."""
    clip, vit = load_clip.load(str(folder / "clip")), vfm.load(f"dino:{folder / 'vfm'}")
    settings = json.loads((folder / "mini.json").read_text())
    assert clip.values(torch.rand(1, 3, 64, 64)).shape == (1, 128, 8, 8)
    assert vit(torch.rand(1, 3, 64, 64)).shape == (1, 128, 16, 16)
    assert clip.tokenizer(["a photo of a toadstool."]).shape == (1, 32)
    weights = import_library("safetensors.torch").load_file(folder / "clip" / "open_clip_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert {"toadstool", "brick wall", "grey"} <= set(settings["known_words"])
    assert settings["options"]["crop"] % clip.patch_size == 0 and settings["options"]["crop"] % vit.patch_size == 0
    assert all("{}" in template for template in settings["options"]["templates"])
    for file in (folder / "clip" / "open_clip_config.json", folder / "vfm" / "config.json", folder / "mini.json"):
        assert not re.search(r"[\"' ]/\w+/", file.read_text()), "a path of one machine"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing to do"),
        (["--all", "--seed", "-1"], "--seed must be 0 or more"),
        (["--all", "--clip-samples", "0"], "--clip-samples must be 1 or more"),
        (["--all", "--out", "{}/file/out"], "cannot create the output folder"),
        (["--write", "--work", "{}/empty", "--out", "{}/out"], "there is no checkpoint"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, capsys, arguments, sentence):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stopped:
        train_mini.main([argument.format(tmp_path) for argument in arguments])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and sentence in message and message.count("\n") == 1
