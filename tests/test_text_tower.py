"""Where the text tower is. A stand-in for the accelerator: the image tower on PyTorch's "meta" device, and moves of the
text tower that are written down."""

import copy
import threading
import time

import pytest
import tiny_clip
import torch

from proxyclip import text_tower
from proxyclip.text import encode_names, encode_prompts
from proxyclip.text_memory import text_parameters

NAMES = ("cat", "dog", "sky")
TEMPLATES = ("a {}", "the {}")
THERE, BACK = "meta", "cpu"


class Moves(list):
    """Where the text tower was moved to, in turn; its weights get other addresses, but stay on the CPU."""

    def __init__(self, at: str):
        super().__init__()
        self.at = at

    def __call__(self, clip, device):
        if device.type != self.at:
            self.at = device.type
            self.append(self.at)
            for weight in text_parameters(clip):
                weight.data = weight.data.clone()


@pytest.fixture
def clip():
    clip = tiny_clip.clip().eval()
    clip.visual.to("meta")
    return clip


@pytest.fixture
def moves(monkeypatch):
    """A model that was loaded onto the accelerator as a whole."""
    moves = Moves(at=THERE)
    monkeypatch.setattr(text_tower, "move", moves)
    return moves


@pytest.fixture
def encoded(monkeypatch, clip, moves):
    """How many prompts each call of the encoder had; it runs on the accelerator."""
    counts, original = [], clip.encode_text

    def encode(tokens):
        assert moves.at == THERE
        counts.append(len(tokens))
        return original(tokens)

    monkeypatch.setattr(clip, "encode_text", encode)
    return counts


@pytest.mark.parametrize("on_disk", [True, False])
def test_it_leaves_the_accelerator_until_another_name_is_encoded(clip, moves, encoded, on_disk):
    first = encode_names(clip, NAMES, TEMPLATES, on_disk=on_disk)
    assert first.device.type == THERE and moves == [BACK] and sum(encoded) == 6
    assert encode_names(clip, NAMES, TEMPLATES, on_disk=on_disk) is first
    assert moves == [BACK] and sum(encoded) == 6


def test_editing_one_name_encodes_one(clip, moves, encoded):
    encode_names(clip, NAMES, TEMPLATES)
    encode_names(clip, ("cat", "sea", "sky"), TEMPLATES)
    assert encoded == [2, 2, 2, 2] and moves == [BACK, THERE, BACK]
    encode_names(clip, ("sea", "dog"), TEMPLATES)
    assert encoded == [2, 2, 2, 2] and moves == [BACK, THERE, BACK]


def test_it_leaves_as_well_where_every_name_is_on_disk(clip, moves, encoded):
    encode_names(tiny_clip.clip().eval(), NAMES, TEMPLATES)
    assert encode_names(clip, NAMES, TEMPLATES).device.type == THERE
    assert moves == [BACK] and encoded == []


@pytest.mark.parametrize(("trainable", "training"), [(True, False), (False, True), (True, True)])
def test_a_text_tower_in_training_comes_and_stays(clip, moves, encoded, trainable, training):
    encode_names(clip, NAMES, TEMPLATES)
    text_parameters(clip)[0].requires_grad_(trainable)
    clip.train(training)
    for name in ("sea", "sand"):
        encode_names(clip, (name,), TEMPLATES)
    assert moves == [BACK, THERE]


def test_on_a_cpu_nothing_moves(monkeypatch):
    monkeypatch.setattr(text_tower, "move", None)
    clip = tiny_clip.clip().eval()
    before = [weight.data_ptr() for weight in text_parameters(clip)]
    assert encode_names(clip, NAMES, TEMPLATES).device.type == "cpu"
    encode_prompts(clip, ["a cat"])
    assert [weight.data_ptr() for weight in text_parameters(clip)] == before


def test_prompts_are_encoded_on_the_accelerator(clip, moves, encoded):
    encode_names(clip, NAMES, TEMPLATES)
    encode_prompts(clip, ["a cat"])
    assert moves == [BACK, THERE]


def test_a_move_changes_neither_fingerprint_nor_copies(clip, moves, encoded):
    reference = tiny_clip.clip().eval()
    before = clip.fingerprint
    encode_names(clip, NAMES, TEMPLATES)
    assert clip.fingerprint == before == reference.fingerprint
    clone = copy.deepcopy(clip)
    clone.visual.to_empty(device="cpu")  # the model of a user who moved it to the CPU
    expected = encode_names(reference, ("tree",), TEMPLATES)
    assert torch.equal(encode_names(clone, ("tree",), TEMPLATES), expected)
    encode_names(clip, ("sea",), TEMPLATES)
    assert moves == [BACK, THERE, BACK]


def test_results_follow_the_image_tower(clip, moves):
    """A user moves the model to the CPU, where the text tower is already."""
    encode_names(clip, NAMES, TEMPLATES)
    clip.visual.to_empty(device="cpu")
    found = encode_names(clip, NAMES, TEMPLATES)
    assert torch.equal(found, encode_names(tiny_clip.clip().eval(), NAMES, TEMPLATES)) and moves == [BACK]


def test_changed_weights_are_noticed_after_a_move(clip, moves, encoded):
    encode_names(clip, NAMES, TEMPLATES)
    with torch.no_grad():
        clip.model.text_projection += 0.1
    encode_names(clip, NAMES, TEMPLATES)
    assert sum(encoded) == 12


def test_only_text_weights_are_moved_and_stay_the_same_objects():
    """To another type instead of another device."""
    clip = tiny_clip.clip().eval()
    before = text_parameters(clip)
    text_tower.move(clip, torch.float64)
    after = text_parameters(clip)
    assert all(one is other and one.dtype == torch.float64 for one, other in zip(before, after, strict=True))
    moved = {name for name, weight in clip.named_parameters() if weight.dtype == torch.float64}
    assert moved == {name for name, _ in clip.named_parameters() if not name.startswith("model.visual.")}


def test_threads_do_not_move_it_from_under_each_other(clip, moves, monkeypatch):
    wrong, original = [], clip.encode_text

    def slowly(tokens):
        time.sleep(0.01)
        wrong.extend([moves.at] if moves.at != THERE else [])
        return original(tokens)

    monkeypatch.setattr(clip, "encode_text", slowly)
    threads = [threading.Thread(target=encode_names, args=(clip, (f"thing {i}",), ("{}",))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and moves.at == BACK
