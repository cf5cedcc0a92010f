"""demo.py: what it writes and says, and the sentence and exit code of each mistake that needs no model to notice."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import demo
import proxyclip
from proxyclip.images import read_image
from proxyclip.pictures.overlay import WIDE_GAP, overlay
from proxyclip.segmentation import Segmentation

SCRIPT = Path(demo.__file__)


class Model:
    """Stands in for a real one: everything is the second class."""

    def __init__(self, options, settings):
        self.chosen = {name: value for name, value in options.items() if value != "auto"}
        self.settings = settings

    def segment(self, image, vocabulary, threshold=0.0, probabilities=(), names=None):
        self.image, self.classes, self.threshold = image, vocabulary.classes, threshold
        classes, self.name = vocabulary.classes, names
        shape = image.shape[:2]
        return Segmentation(
            labels=np.full(shape, min(1, len(classes) - 1), np.uint8),
            confidence=np.full(shape, 0.5, np.float32),
            classes=list(classes),
            image=image,
            probabilities={name: np.full(shape, 0.25, np.float32) for name in probabilities},
        )


@pytest.fixture
def run(monkeypatch):
    """Runs demo.py with a stand-in for the model, which is returned."""

    def run(*arguments) -> Model:
        models = []

        def build(choice):
            models.append(Model(choice.options, choice.settings))
            return models[0]

        monkeypatch.setattr(demo.ModelChoice, "plan", lambda choice: SimpleNamespace(build=partial(build, choice)))
        monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, arguments)])
        demo.main()
        return models[0] if models else None

    return run


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "street.jpg"
    Image.new("RGB", (60, 40), "red").save(path)
    return path


def test_without_arguments(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    demo.main()
    said = capsys.readouterr().out
    vanilla, value, proxy = (float(score) for score in re.findall(r"mIoU ([0-9.]+)", said))
    assert proxy > value > vanilla
    assert "figure: out/demo.png" in said
    sheet = read_image(tmp_path / "out" / "demo.png")
    image, ground_truth = demo.scenes.draw(demo.SCENE, demo.SCENE_SIZE)
    top = next(row for row in range(100) if np.array_equal(sheet[row, :512], image[0]))
    assert np.array_equal(sheet[top : top + 512, :512], image)
    colours = np.array(demo.SyntheticScenes().colours, np.uint8)
    left = 512 + WIDE_GAP
    tinted = np.asarray(overlay(image, ground_truth, colours, 0.7))
    assert np.array_equal(sheet[top : top + 512, left : left + 512], tinted)
    # Below it, each method's labels: the nearer to the ground truth, the higher its mIoU.
    lower = 2 * top + 512 + WIDE_GAP
    panels = [sheet[lower : lower + 512, place * left : place * left + 512] for place in range(3)]
    wrong = [(panel != tinted).any(-1).mean() for panel in panels]
    assert 1 > wrong[0] > wrong[1] > wrong[2] > 0


def test_other_methods_side_by_side(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo.py", "--compare", "proxyclip, maskclip"])
    demo.main()
    assert re.findall(r"^(\w+): mIoU", capsys.readouterr().out, re.MULTILINE) == ["ProxyCLIP", "MaskCLIP"]
    image, _ = demo.scenes.draw(500)
    Image.fromarray(image).save(tmp_path / "scene.png")
    classes = ["--classes", "sky,sea,grass", "--compare", "clip,maskclip,proxyclip"]
    monkeypatch.setattr(sys, "argv", ["demo.py", "scene.png", *classes])
    demo.main()
    assert "comparison: out/scene_compare.png" in capsys.readouterr().out
    sheet = read_image(tmp_path / "out" / "scene_compare.png")
    expected = proxyclip.load("mini").segment(image, ["sky", "sea", "grass"]).overlay(legend=False)
    width, height = expected.size
    panels = [sheet[:, place * (width + WIDE_GAP) :][:, :width] for place in range(4)]
    tops = [row for row in range(100) if np.array_equal(panels[3][row : row + height], np.asarray(expected))]
    assert len(tops) == 1 and panels[0][tops[0] :][:height].shape == panels[3][tops[0] :][:height].shape
    assert not np.array_equal(panels[1], panels[2])


@pytest.mark.parametrize(
    "option, said",
    [
        ("--compare clip,proxyclip --method clip", "--compare names the methods: leave out --method and --checkpoint"),
        ("--compare clip,maskclip,proxyclip,clip", "--compare names 4 methods; name 1 to 3, separated by commas"),
        ("--compare ,", "--compare names 0 methods"),
        ("--compare proxiclip", "unknown method 'proxiclip'; did you mean proxyclip"),
    ],
)
def test_methods_that_cannot_be_compared(option, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo.py", *option.split()])
    with pytest.raises(SystemExit, match="2"):
        demo.main()
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        "--classes cat",
        "--preset vitl14-dino",
        "--heatmap sky",
        "--method maskclip",
        "--refine pamr",
        "--background threshold",
        "--threshold 0.2",
    ],
)
def test_without_a_photo_there_is_nothing_to_choose(run, option, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(*option.split(), "--out", tmp_path / "out")
    assert "error: these options need an image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_photograph_of_one_s_own(run, photo, tmp_path, capsys):
    options = "--background threshold --threshold 0.25 --crop 224 --beta 1.1 --set gamma=5 stride=56 --method maskclip "
    options += "--checkpoint-clip clip.pt --precision bf16"
    model = run(photo, "--classes", "cat; kitten, grass ,sky", "--out", tmp_path / "out", *options.split())
    assert model.classes == ("background", "cat; kitten", "grass", "sky")
    assert model.name == "street"
    assert model.image.shape == (40, 60, 3)
    assert model.threshold == 0.25
    assert model.chosen == {
        "preset": "vitb16-dino",
        "checkpoint_clip": "clip.pt",
        "method": "maskclip",
        "precision": "bf16",
    }
    assert model.settings == ("gamma=5", "stride=56", "crop=224", "beta=1.1")
    said = capsys.readouterr().out
    assert "street.jpg: 60x40 pixels, 4 classes" in said


def test_heatmaps_by_any_name_of_a_class(run, photo, tmp_path, capsys):
    run(photo, "--classes", "cat; kitten, grass", "--out", tmp_path, "--heatmap", "kitten", "--heatmap", "grass")
    assert read_image(tmp_path / "street_probability_cat.png").max() == 64
    assert f"heatmap grass: {tmp_path / 'street_heatmap_grass.png'}" in capsys.readouterr().out


def test_models_by_name_replace_the_preset(run, photo, tmp_path):
    model = run(photo, "--classes", "cat", "--clip", "ViT-L-14:openai", "--vfm", "mae-vitb16", "--out", tmp_path)
    assert model.chosen == {"clip": "ViT-L-14:openai", "vfm": "mae-vitb16"}
    model = run(photo, "--classes", "cat", "--vfm", "mae-vitb16", "--out", tmp_path)
    assert model.chosen == {"preset": "vitb16-dino", "vfm": "mae-vitb16"}
    model = run(photo, "--classes", "cat", "--preset", "vitl14-dino", "--out", tmp_path)
    assert model.chosen == {"preset": "vitl14-dino"}


def test_a_scene_of_one_s_own_by_the_embedded_models(tmp_path, capsys, monkeypatch):
    """They are the default, and what they are not made for is said at once."""
    image, label = demo.scenes.draw(500)
    Image.fromarray(image).save(tmp_path / "scene.png")
    names = [demo.scenes.CLASSES[k] for k in np.unique(label)]
    options = ["demo.py", tmp_path / "scene.png", "--classes", ",".join(names), "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", list(map(str, options)))
    demo.main()
    assert "synthetic scenes only; for photographs use --preset vitb16-dino" in capsys.readouterr().out
    found = np.array(Image.open(tmp_path / "out" / "scene_labels.png"))
    assert np.mean(found == np.unique(label, return_inverse=True)[1].reshape(label.shape)) > 0.8


def test_a_photo_alone_takes_the_embedded_models(run, photo, tmp_path, capsys):
    assert run(photo, "--classes", "cat", "--out", tmp_path).chosen == {"preset": "mini"}
    run(photo, "--classes", "cat", "--out", tmp_path, "--preset", "vitb16-dino")
    assert capsys.readouterr().out.count("synthetic scenes only") == 1


def test_classes_from_a_file(run, photo, tmp_path):
    (tmp_path / "words.txt").write_bytes("\ufeffBäume; Wald\r\nsky\r\n".encode())
    assert run(photo, "--classes", tmp_path / "words.txt", "--out", tmp_path).classes == ("Bäume; Wald", "sky")


def test_list(run, capsys):
    assert run("--list") is None
    assert "vitb16-dino" in capsys.readouterr().out


@pytest.fixture
def folder(photo, tmp_path):
    """Everything that the mistakes below need."""
    (tmp_path / "notes.txt").write_text("cat\n\ngrass\n")
    (tmp_path / "none.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("Bäume\n".encode("latin-1"))
    (tmp_path / "broken.jpg").write_bytes(photo.read_bytes()[:300])
    (tmp_path / f"{'x' * 230}.jpg").write_bytes(photo.read_bytes())
    return tmp_path


MISTAKES = {
    "no classes": ("street.jpg", '--classes is missing: say what to look for, e.g. --classes "cat, grass, sky"'),
    "no name": ("street.jpg --classes cat,,sky", "class 1 ('') has an empty name"),
    "twice": ("street.jpg --classes cat,sky,cat", "class 'cat' is given twice, as number 0 and 2"),
    "empty line": ("street.jpg --classes notes.txt", "class 1 ('') has an empty name"),
    "empty file": ("street.jpg --classes none.txt", "no classes were given; name at least one thing to look for"),
    "absent file": ("street.jpg --classes absent.txt", "class file absent.txt does not exist"),
    "not UTF-8": (
        "street.jpg --classes latin.txt",
        "class file latin.txt is not UTF-8 text: save it as UTF-8, one class per line",
    ),
    "absent photo": ("absent.jpg --classes cat", "image absent.jpg does not exist"),
    "folder": (". --classes cat", "image . is a folder: name one file in it"),
    "no image": ("notes.txt --classes cat", "cannot read image notes.txt: unsupported format or corrupted file"),
    "truncated": ("broken.jpg --classes cat", "cannot read image broken.jpg: truncated or corrupted file"),
    "threshold": (
        "street.jpg --classes cat --threshold 2",
        "--threshold is 2.0; it must be a probability",
    ),
    "heatmap": ("street.jpg --classes cat,sky --heatmap sly", "'sly' is none of the classes; did you mean sky?"),
    "name too long": (f"{'x' * 230}.jpg --classes cat --heatmap cat", f"stem '{'x' * 230}' is too long for file"),
    "output": (
        "street.jpg --classes cat --out street.jpg",
        "cannot create the output folder street.jpg: a file of that name exists",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_noticed_before_a_model_is_loaded(mistake, run, folder, monkeypatch, capsys):
    arguments, sentence = MISTAKES[mistake]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys.modules[__name__], "Model", None)  # loading one would fail
    with pytest.raises(SystemExit) as caught:
        run(*arguments.split())
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {sentence}")
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize("arguments", ["absent.jpg --classes cat", "--crop wide"])
def test_exit_code_of_the_script(arguments, tmp_path):
    process = subprocess.run(
        [sys.executable, SCRIPT, *arguments.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parent)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert "error: " in process.stderr
    assert "Traceback" not in process.stderr
    assert not process.stdout
