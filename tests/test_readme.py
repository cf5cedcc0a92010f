"""What the README shows must work as it stands."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from configs.load import load_config, names
from configs.training import TrainConfig
from datasets.prepare.__main__ import NAMES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_dataset_of_ones_own(tmp_path):
    (block,) = re.findall(r'```python\n("""Photographs of my garden.*?)```', README, re.S)
    (tmp_path / "cfg_garden.py").write_text(block)
    for folder, mode, ending in (("photos", "RGB", "jpg"), ("labels", "L", "png")):
        (tmp_path / "garden" / folder).mkdir(parents=True)
        Image.new(mode, (8, 6), 0).save(tmp_path / "garden" / folder / f"a.{ending}")
    label = np.zeros((6, 8), np.uint8)
    label[0, :3] = 1, 4, 255
    Image.fromarray(label).save(tmp_path / "garden" / "labels" / "a.png")
    config = load_config(tmp_path / "cfg_garden.py")
    (sample,) = config.data.open(tmp_path)
    assert sample.label[0, :4].tolist() == [0, 3, -1, -1] and sample.image.shape == (6, 8, 3)
    assert config.queries == ("lawn", "hedge; bush", "path", "flower bed")


def test_the_table_of_benchmarks_is_complete():
    rows = re.findall(r"^\| (`cfg_.*?) \| .*? \| (.*?) \| (\d+) \| (.*?) \|$", README, re.M)
    table = {
        name: (int(classes), int(images), re.findall(r"`(\w+)`", converters))
        for configs, counts, images, converters in rows
        for name, classes in zip(re.findall(r"`(\w+)`", configs), counts.split(", "), strict=True)
    }
    assert sorted(table) == names()
    for name, (classes, images, converters) in table.items():
        config = load_config(name)
        assert len(config.data.classes) == classes
        split = config.data.splits[config.split]
        assert images == (len(split) if isinstance(split, range) else split.count[0])
        assert set(converters) <= set(NAMES)
        if not isinstance(split, range):
            assert tuple(converters) == split.prepare


def test_every_script_and_file_that_is_named_exists():
    for path in re.findall(r"(?:python|bash) ([\w/]+\.(?:py|sh))", README):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"\]\(([^):#]+)\)", README):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"--config (\w+)\.py", README):
        assert name == "cfg_garden" or name in names(), name


def test_every_option_that_is_named_exists():
    """Of the lines that call a script or command, each option is in its source, or among those that they share."""
    commands = ROOT / "proxyclip" / "command"
    shared = (ROOT / "configs" / "overrides.py").read_text() + (commands / "model_options.py").read_text()
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", README, re.M | re.S)
    lines = [line.partition("#")[0] for block in blocks for line in block.splitlines()]
    calls = [match for line in lines if (match := re.search(r"python ([\w/]+\.py)(.*)", line))]
    assert len(calls) > 8
    calls += [match for line in lines if (match := re.search(r"proxyclip (segment|app|presets)( .*)", line))]
    for name, options in (call.groups() for call in calls):
        files = [ROOT / name, commands / f"{name.removesuffix('.py')}.py"]
        source = "".join(file.read_text() for file in files if file.is_file())
        assert source, name
        for option in re.findall(r"--[\w-]+", options):
            assert f'"{option}"' in source + shared, (name, option)


def test_the_training_run_of_ones_own(tmp_path):
    (block,) = re.findall(
        r'```python\n("""ZegCLIP on photographs.*?)```', (ROOT / "docs" / "training.md").read_text(), re.S
    )
    (tmp_path / "train_garden.py").write_text(block)
    config = load_config(tmp_path / "train_garden.py", TrainConfig)
    assert config.seen == ("lawn", "hedge", "path") and config.known == config.seen
    assert load_config(tmp_path / "train_garden.py") == config.benchmark
