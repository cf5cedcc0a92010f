"""The benchmark for accelerators, on the CPU: that it runs, and counts operations as by hand."""

import pytest

import proxyclip
from benchmarks import gpu


def test_a_line_for_each_task(capsys):
    arguments = "--device cpu --pairs mini --tasks voc --precisions fp32 --images 1 --workers 0 --plain"
    gpu.main(arguments.split())
    header, line = capsys.readouterr().out.splitlines()
    assert header.startswith("cpu, torch") and line.startswith("mini") and "voc     fp32" in line
    for part in ("images/s", "% of the limit", "an image: 0.01 TFLOP", "ms of the main thread", "plain"):
        assert part in line


def test_operations_of_a_window():
    """24 T D² + 4 T² D for each block of T tokens of width D, and what is around the blocks."""
    model = proxyclip.load("mini", device="cpu", precision="fp32")
    found = gpu.operations(model, model.encode_classes(gpu.Vocabulary.parse(["sky", "sea"])))
    side, blocks = model.windows.crop, 0
    clip, vit = model.clip.visual, model.vfm.vit
    for count, width, patch in (
        (len(clip.transformer.resblocks) - 1, clip.transformer.width, model.clip.patch_size),
        (len(vit.blocks), vit.embed_dim, model.vfm.patch_size),
    ):
        tokens = 1 + (side // patch) ** 2
        blocks += count * (24 * tokens * width**2 + 4 * tokens**2 * width)
    assert blocks < found < 1.25 * blocks


def test_without_a_gpu_it_says_so(capsys):
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--device", "cuda:99"])
    assert stopped.value.code == 2 and "error: device 'cuda:99'" in capsys.readouterr().err
