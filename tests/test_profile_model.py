"""What a model costs: its parameters, operations, speed and memory."""

import re

import pytest
import tiny_clip
import tiny_head
import tiny_heads
import torch
from torch.utils.flop_counter import FlopCounterMode

from configs.load import load_config
from configs.training import TrainConfig
from heads.training.plan import plan_head, skeleton
from tools.profile_model import count_operations, main, random_clip, random_text


def run(capsys, *arguments) -> dict[str, str]:
    """What is printed, by the word that a line starts with."""
    main([*arguments, "--rounds", "1", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    return {"model": lines[0], "machine": lines[1]} | dict(re.split("  +", line, maxsplit=1) for line in lines[2:])


def test_a_configuration_of_a_head(capsys):
    found = run(capsys, "zegclip_scenes_inductive", "--precision", "bf16")
    assert found["model"] == "zegclip_scenes_inductive: ZegCLIP, mini-clip"  # whose weights are there
    assert found["machine"].endswith(", bfloat16")
    assert found["image"] == "192x192 pixels, 25 windows, 24 classes"
    assert re.fullmatch(r"2\.\d\d M, of which 0\.\d\d M are trained", found["parameters"])
    once, half = map(float, re.fullmatch(r"([\d.]+) GFLOPs; ([\d.]+) with .* as one", found["operations"]).groups())
    assert once > 1 and half == pytest.approx(once / 2, abs=0.11)
    middle, low, high = map(float, re.fullmatch(r"([\d.]+) images/s \(([\d.]+) to ([\d.]+)\)", found["speed"]).groups())
    assert 0 < low <= middle <= high
    assert re.fullmatch(r"\d+\.\d\d GB of the process", found["peak memory"])


def test_a_preset(capsys):
    found = run(capsys, "mini", "--method", "maskclip", "--size", "64", "72", "--classes", "3")
    assert found["model"] == "mini: MaskCLIP, mini-clip"
    assert found["image"] == "144x128 pixels, 12 windows, 3 classes"  # its short side is 128
    assert found["parameters"].endswith("of which 0.00 M are trained")


def test_a_trained_head(tmp_path, capsys):
    clip = tiny_heads.clip_folder(tmp_path / "clip")
    run_folder = tiny_heads.saved(tmp_path / "zeg", clip=clip)
    found = run(capsys, run_folder, "--clip", clip, "--size", "40", "40")
    assert found["model"].startswith(f"{run_folder}: ZegCLIP, ")
    assert f"{len(tiny_heads.CLASSES)} classes" in found["image"]


def test_weights_need_not_be_there():
    assert random_clip("ViT-B-16:openai") == "ViT-B-16-quickgelu:random"
    assert random_clip("ViT-L-14:laion2b_s32b_b82k") == "ViT-L-14:random"


@pytest.mark.parametrize("name", tiny_head.HEADS)
@torch.no_grad()
def test_operations_of_attention_are_counted(name):
    model, image = tiny_head.head(name), torch.rand(3, 40, 56)
    text = random_text(model, 5)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.image_scores(image, text, 1)
    assert count_operations(model, image, text) == counter.get_total_flops()
    expected = (5, len(tiny_clip.TEMPLATES), 16) if name == "otseg" else (5, 16)
    assert text.shape == expected


def test_zegclip_trains_fewer_weights_than_the_published_code():
    """The rest of the published 13.8 M takes part in no result."""
    config = load_config("zegclip_voc20_inductive", TrainConfig)
    head = skeleton(plan_head(config.head, config.options, config.clip, config.data.classes, config.seen))
    trained = sum(parameter.numel() for parameter in head.parameters() if parameter.requires_grad)
    width, joint = 768, 512
    linear, norm = joint**2 + joint, 2 * joint
    network = 2 * 4 * joint**2 + 4 * joint + joint
    layer = 4 * linear + 4 * linear + network + 3 * norm  # self-attention, attention, feed-forward network, norms
    prompts = 12 * 10 * width + width**2 + width + 2 * width  # with their projection and the norm
    published = prompts + 2 * joint**2 + joint + 3 * layer
    unused = 3 * (4 * linear + norm) + (2 * linear + network + 2 * norm)  # self-attention; what follows the last scores
    assert (published, unused, trained) == (13_821_184, 5_782_016, 8_039_168)
    assert trained == published - unused


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["zegclip_voc20_inductiv"], "unknown configuration 'zegclip_voc20_inductiv'; did you mean zegclip_voc20_ind"),
        (["mini", "--size", "0", "5"], "--size must be at least 1 pixel, not 0"),
        (["mini", "--rounds", "0"], "--rounds must be at least 1, not 0"),
        (["mini", "--method", "mask"], "unknown method 'mask'"),
    ],
)
def test_wrong_arguments(arguments, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert sentence in capsys.readouterr().err
