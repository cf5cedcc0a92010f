"""--checkpoint in eval.py, eval_all.py, demo.py and dist_test.sh: a trained head wherever they take a preset."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_benchmarks
import tiny_cat_seg
import tiny_clip
import tiny_heads
import torch
from openpyxl import load_workbook
from PIL import Image
from test_eval_script import stored_labels

import demo
import eval as eval_script
import eval_all
import heads
from configs.load import load_config
from configs.protocol import digest, unseen_classes
from heads.checkpoint import CheckpointMetadata
from proxyclip.images import read_image

HERE = Path(__file__).resolve().parents[1]
VOC20 = load_config("voc20").data
UNSEEN = VOC20.unseen["zegclip"]
SEEN = tuple(name for name in VOC20.classes if name not in UNSEEN)
TRAINING = {"dataset": "voc20", "setting": "inductive", "iteration": 5, "unseen": "zegclip"}
TRAIN_CONFIG = """from configs.cfg_voc20 import config as voc20
from configs.training import TrainConfig
config = TrainConfig(benchmark=voc20, head="{head}", setting="{setting}", unseen="zegclip", iterations=2000,
                     options={{"decoder_heads": 2, "image_size": 48, "crop": 32, "stride": 16, "short_side": 40}})
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a CLIP."""
    return tiny_heads.clip_folder(tmp_path_factory.mktemp("models") / "clip")


def trained(folder, clip, **more) -> str:
    """The folder of a training run on Pascal VOC."""
    return tiny_heads.saved(folder, clip=clip, **{"classes": VOC20.classes, "seen": SEEN, "training": TRAINING} | more)


@pytest.fixture(scope="module")
def original(tmp_path_factory, clip):
    return trained(tmp_path_factory.mktemp("runs") / "zeg", clip)


@pytest.fixture
def run(tmp_path, original):
    """The folder of a training run of ZegCLIP."""
    return shutil.copytree(original, str(tmp_path / "zeg"))


def train_config(tmp_path, head="zegclip", setting="inductive") -> str:
    file = tmp_path / f"{head}_{setting}.py"
    file.write_text(TRAIN_CONFIG.format(head=head, setting=setting))
    return str(file)


def evaluate(tmp_path, *options, config="cfg_voc20", data=True) -> dict:
    """Runs eval.py in this process on a tiny benchmark; returns the last line of results.jsonl."""
    root = tmp_path / "data"
    if data and not root.exists():
        tiny_benchmarks.build(root, config, stored_labels(config))
    common = ["--data-root", root, "--workdir", tmp_path / "out", "--workers", 0, "--device", "cpu"]
    eval_script.main(["--config", config, *map(str, [*common, *options])])
    return json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[-1])


def test_a_trained_head_is_evaluated_under_its_own_protocol(tmp_path, run, clip, capsys):
    options = "--save-predictions", "--report", tmp_path / "report"
    line = evaluate(tmp_path, "--checkpoint", run, "--set", f"clip={clip}", *options)
    model = heads.load(run, clip=clip, device="cpu")
    (folder,) = (tmp_path / "out" / "predictions").iterdir()
    image, _, _, stems = tiny_benchmarks.LAYOUTS["cfg_voc20"]
    for stem in stems:  # the benchmark asks for "ship" and "table", but a head knows "boat" and "diningtable"
        expected = model.segment(read_image(tmp_path / "data" / image.format(stem)), VOC20.classes).labels
        assert np.array_equal(np.asarray(Image.open(folder / f"{stem}.png")), expected)
    assert (line["model"], line["vfm"], line["changed"]) == ("ZegCLIP", None, {})
    assert line["protocol"].items() >= {"short_side": 40, "crop": 32, "stride": 16, "image_size": 48}.items()
    assert line["protocol"]["subtract"] == dict.fromkeys(SEEN, 0.1)
    assert line["trained"].items() >= {"dataset": "voc20", "setting": "inductive"}.items()
    assert set(line["zero_shot"]) == {"zegclip"}

    row = f"ZegCLIP, voc20 inductive {line['trained']['weights']}"
    said = capsys.readouterr().out
    hiou = line["zero_shot"]["zegclip"]["hIoU"]
    assert f"voc20: {row} {clip}" in said and "unseen as in zegclip: pAcc" in said and f"hIoU {hiou:.2f}" in said
    sheet = load_workbook(tmp_path / "out" / "results.xlsx")["zero-shot"]
    (own,) = (cells for cells in sheet.iter_rows(values_only=True) if cells[1] == row)
    assert own[0] == "voc20" and own[4:6] == ("zegclip", "inductive") and own[9] == pytest.approx(hiou)
    (page,) = (tmp_path / "report").rglob("report.html")
    assert row in page.read_text()


def test_a_head_asks_for_every_word_of_a_background(tmp_path, run, clip):
    line = evaluate(tmp_path, "--checkpoint", run, "--set", f"clip={clip}", "--save-predictions", config="cfg_voc20b")
    model, config = heads.load(run, clip=clip, device="cpu", seen_penalty=0.0), load_config("cfg_voc20b")
    (folder,) = (tmp_path / "out" / "predictions").iterdir()
    image, _, _, stems = tiny_benchmarks.LAYOUTS["cfg_voc20b"]
    for stem in stems:
        found = np.asarray(Image.open(folder / f"{stem}.png"))
        photograph = read_image(tmp_path / "data" / image.format(stem))
        words = [*config.queries[0].split("; "), *VOC20.classes]
        expected = model.segment(photograph, words).labels.astype(int)  # of 39 words, then of 20 classes
        assert np.array_equal(found, np.maximum(expected - 38, 0)) and len(np.unique(found)) > 1
    assert line["dataset"] == "voc20b" and line["protocol"]["threshold"] is None and line["changed"] == {}


def test_what_differs_from_the_training_is_listed(tmp_path, run, clip):
    file = tiny_heads.embeddings_file(tmp_path / "words.npy", (20, 16))
    changes = ["short_side=32", "stride=8", "seen_penalty=0.2", f"text_embeddings={file}", f"clip={clip}"]
    line = evaluate(tmp_path, "--checkpoint", run, "--set", *changes, "--limit", 1)
    embeddings = line["changed"].pop("text_embeddings")
    assert line["changed"] == {"short_side": 32, "stride": 8, "seen_penalty": 0.2, "limit": 1}
    assert embeddings == f"words.npy {line['protocol']['weights'][:6]}"
    assert line["protocol"].items() >= {"short_side": 32, "stride": 8, "text_embeddings": "words.npy"}.items()
    assert str(tmp_path) not in json.dumps({**line, "clip": "", "protocol": {**line["protocol"], "clip": ""}})


def test_nothing_is_subtracted_on_another_benchmark(tmp_path, clip):
    """Names that both have would otherwise compete under a penalty with those that only one has."""
    run = trained(tmp_path / "other", clip, classes=("cat", "dog", "sky"), seen=("cat", "sky"))
    line = evaluate(tmp_path, "--checkpoint", run, "--set", f"clip={clip}")
    assert (line["protocol"]["subtract"], line["changed"], line["zero_shot"]) == ({}, {}, {})
    line = evaluate(tmp_path, "--checkpoint", run, "--set", f"clip={clip}", "seen_penalty=0.1")
    assert line["protocol"]["subtract"] == {"cat": 0.1, "sky": 0.1} and line["changed"] == {"seen_penalty": 0.1}


def test_another_benchmark_under_the_protocol_of_the_published_runs(tmp_path, clip):
    """The values of ZegCLIP from COCO-Stuff to Pascal VOC; on the benchmark of the training nothing changes."""
    data = load_config("coco_stuff164k").data
    facts = {"classes": data.classes, "seen": data.classes, "training": {"dataset": data.name, "setting": "fully"}}
    run = trained(tmp_path / "coco", clip, **facts, templates=("a {}.", "some {}."))
    options = "--checkpoint", run, "--clip", clip
    ours, theirs = (evaluate(tmp_path, *options, "--protocol", name) for name in ("ours", "published"))
    assert theirs["protocol"]["name"] == "published" and "name" not in ours["protocol"]
    assert ours["protocol"]["templates_hash"] != theirs["protocol"]["templates_hash"] == digest(("a photo of a {}",))
    assert ours["changed"] == theirs["changed"] == {} and ours["protocol"]["crop"] == theirs["protocol"]["crop"] == 32
    own = trained(tmp_path / "voc", clip)
    line = evaluate(tmp_path, "--checkpoint", own, "--clip", clip, "--protocol", "published", "--set", "crop=24")
    assert "name" not in line["protocol"] and line["changed"] == {"crop": 24}


def test_eval_all_hands_options_on(run):
    """The weights of CLIP and VFM to all models that load them, settings to all."""
    files = ["--checkpoint-clip", "a.pt", "--checkpoint-vfm", "b.pt", "--set", "crop=224", "stride=112", "--limit", "3"]
    given = ["--presets", "mini", "vitb16-dino", "--checkpoint", run, "--configs", "voc20"]
    options = eval_all.parse([*given, *files])
    mini, pair, head = (" ".join(eval_all.command(options, task)) for task in eval_all.tasks_of(options))
    for command in (mini, pair, head):
        assert command.endswith("--protocol ours --workdir work/eval --limit 3 --set crop=224 stride=112")
    assert "--preset vitb16-dino --method proxyclip --checkpoint-clip a.pt --checkpoint-vfm b.pt " in pair
    assert "-clip" not in mini and f"--checkpoint {run} --checkpoint-clip a.pt --protocol" in head


def test_eval_all_evaluates_heads_where_they_were_published(tmp_path, clip):
    data = load_config("coco_stuff164k").data
    facts = {"classes": data.classes, "seen": data.classes, "training": {"dataset": data.name, "setting": "fully"}}
    run = trained(tmp_path / "coco", clip, name="otseg", **facts)
    found = {config for _, _, config in planned("--checkpoint", run, "--protocol", "published")}
    assert found == {"cfg_voc20", "cfg_context59", "cfg_ade20k", "cfg_coco_stuff164k"}


OTHERS = VOC20.classes[:3]


@pytest.mark.parametrize(("classes", "seen", "training", "expected"), [
    (VOC20.classes, SEEN, {}, {"zegclip": UNSEEN}),
    (VOC20.classes[::-1], SEEN, {}, {"zegclip": UNSEEN}),
    (VOC20.classes, VOC20.classes[3:], {}, {"checkpoint": OTHERS}),
    (VOC20.classes, VOC20.classes, {}, VOC20.unseen),
    (VOC20.classes, VOC20.classes, {"unseen": "zegclip"}, {"zegclip": UNSEEN}),
    (VOC20.classes[:7], VOC20.classes[:5], {}, {}),
])  # fmt: skip
def test_unseen_classes_are_those_of_the_training(classes, seen, training, expected):
    facts = CheckpointMetadata("zegclip", {}, classes, seen, "", "", None, (), (), "", training)
    assert unseen_classes(VOC20, facts) == expected
    assert unseen_classes(VOC20) == VOC20.unseen


def test_a_fully_trained_head_keeps_the_split_of_its_training():
    data = load_config("context59").data
    facts = CheckpointMetadata("otseg", {}, data.classes, data.classes, "", "", None, (), (), "", {"unseen": "otseg"})
    assert set(data.unseen) == {"otseg", "cascade-clip"} and set(unseen_classes(data, facts)) == {"otseg"}


def test_checkpoints_of_one_name_are_not_mixed(tmp_path, run, clip, capsys):
    options = "--checkpoint", run, "--set", f"clip={clip}"
    first = evaluate(tmp_path, *options)
    assert evaluate(tmp_path, *options, "--resume") == first and "already evaluated" in capsys.readouterr().out
    trained(Path(run), clip, seed=1)
    second = evaluate(tmp_path, *options, "--resume")
    assert "already evaluated" not in capsys.readouterr().out
    assert first["protocol"]["weights"] != second["protocol"]["weights"]
    rows = [f"ZegCLIP, voc20 inductive {line['trained']['weights']}" for line in (first, second)]
    book = load_workbook(tmp_path / "out" / "results.xlsx")
    assert [row[0].value for row in book["runs"].iter_rows(min_row=2)] == rows and rows[0] != rows[1]
    found = [row[0].value for row in book["benchmark"].iter_rows(min_row=3)]
    assert set(rows) <= set(found)


def test_a_published_checkpoint_with_its_training_configuration(tmp_path, clip):
    made = tiny_heads.head("zegclip", clip, VOC20.classes, SEEN)
    counted = {"decode_head.loss_decode.criterion.empty_weight": torch.ones(16)}
    file = tiny_heads.save_official(tmp_path / "zegclip_voc.pth", made, "module.", **counted)
    options = "--checkpoint", file, "--train-config", train_config(tmp_path), "--set", f"clip={clip}"
    line = evaluate(tmp_path, *options)
    assert (line["model"], line["changed"], set(line["zero_shot"])) == ("ZegCLIP", {}, {"zegclip"})
    assert line["trained"].items() >= {"dataset": "voc20", "setting": "inductive"}.items()
    assert line["protocol"].items() >= {"short_side": 40, "crop": 32, "decoder_heads": 2, "prompts": 3}.items()
    own = evaluate(tmp_path, "--checkpoint", trained(tmp_path / "zeg", clip), "--set", f"clip={clip}")
    assert line["per_class"] == own["per_class"]


def test_a_published_checkpoint_that_needs_no_training_configuration(tmp_path, capsys):
    """What CAT-Seg was trained on is recorded if it is said, and changes nothing else."""
    clip = tiny_clip.save_folder(tmp_path / "clip", **tiny_cat_seg.LAYERS)
    file = tiny_cat_seg.save_official(tmp_path / "cat_seg.pth", tiny_cat_seg.tuned_head(clip))
    untold = {name: tiny_cat_seg.OPTIONS[name] for name in tiny_cat_seg.UNTOLD}
    told = [
        f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}" for name, value in untold.items()
    ]
    options = "--checkpoint", file, "--set", f"clip={clip}", *told
    line = evaluate(tmp_path, *options)
    assert line["trained"].items() >= {"dataset": None, "setting": None}.items()
    said = capsys.readouterr().out
    assert line["model"] == "CAT-Seg" and f"voc20: CAT-Seg, {line['trained']['weights']} (" in said
    config = tmp_path / "mine.py"
    config.write_text(
        "from dataclasses import replace\nfrom configs.heads.cat_seg import BASE\n"
        f"config = replace(BASE, options={untold})\n"
    )
    second = evaluate(tmp_path, *options, "--train-config", config)
    assert second["trained"].items() >= {"dataset": "coco_stuff164k", "setting": "fully"}.items()
    assert second["per_class"] == line["per_class"]


def truncate(run) -> None:
    file = Path(run, "last.safetensors")
    file.write_bytes(file.read_bytes()[:-9])


BAD = {
    "preset": (["--model", "mini"], None, "--checkpoint names a whole model: leave out --preset"),
    "method": (["--method", "clip", "--preset", "mini"], None, "leave out --preset and --method"),
    "missing": (["--checkpoint", "runs/none"], None, "checkpoint runs/none does not exist"),
    "empty folder": (["--checkpoint", str(HERE / "tests")], None, "has no checkpoint: neither best.safetensors nor"),
    "no checkpoint": (["--checkpoint", __file__], None, "test_checkpoint_option.py"),
    "truncated": ([], truncate, "cannot be read"),
    "words": (["--set", "words=voc20"], None, "zegclip uses the names of the classes, not other words"),
    "logit scale": (
        ["--set", "logit_scale=3"],
        None,
        "no field 'logit_scale' in the configuration or zegclip",
    ),
    "misspelt": (["--set", "stridee=3"], None, "did you mean stride"),
    "not a number": (["--set", "crop=big"], None, "crop must be a whole number, not 'big'"),
    "other head": (["--train-config", "otseg"], None, "is of head zegclip, not otseg"),
    "other setting": (["--train-config", "fully"], None, "trained with other seen classes (15) than those given (20)"),
    "no config": (["--train-config", "zegclip_voc2_inductive"], None, "did you mean zegclip_voc20_inductive"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_said_before_data_is_looked_for(tmp_path, run, clip, capsys, case):
    options, damage, words = BAD[case]
    given = {"otseg": train_config(tmp_path, "otseg"), "fully": train_config(tmp_path, setting="fully")}
    options = [given.get(option, option) for option in options]
    if damage:
        damage(run)
    with pytest.raises(SystemExit) as stopped:
        evaluate(tmp_path, "--checkpoint", run, "--set", f"clip={clip}", *options, data=False)
    said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and len(said) == 1 and said[0].startswith("error: ") and words in said[0], said


@pytest.mark.parametrize(("options", "words"), [
    (["--set", "decoder_layers=2"], "decoder_layers is part of the training"),
    (["--set", "vfm=dino-vitb8"], "head zegclip has no option 'vfm'"),
    (["--set", "checkpoint_clip=none.pt"], "checkpoint none.pt does not exist"),
    (["--set", "clip=ViT-B-17"], "unknown CLIP 'ViT-B-17'"),
    (["--set", "clip=ViT-B-16:random"], "was trained on another CLIP: clip with fingerprint"),
    (["--set", "text_embeddings=none.npy"], "text embeddings none.npy do not exist"),
    (["--precision", "fp8"], "unknown precision 'fp8'"),
])  # fmt: skip
def test_what_cannot_be_used_is_said_before_an_image_is_read(tmp_path, run, clip, capsys, options, words):
    pairs = tiny_benchmarks.build(tmp_path / "data", "cfg_voc20", stored_labels("cfg_voc20"))
    pairs[0][1].write_bytes(b"would be an error if it were read")
    with pytest.raises(SystemExit) as stopped:
        evaluate(tmp_path, "--checkpoint", run, "--set", f"clip={clip}", *options)
    said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and len(said) == 1 and words in said[0], said


def test_a_training_configuration_alone_describes_nothing(tmp_path, capsys):
    with pytest.raises(SystemExit):
        evaluate(tmp_path, "--train-config", "zegclip_voc20_inductive", data=False)
    assert "--train-config describes a --checkpoint" in capsys.readouterr().err


def planned(*arguments):
    tasks = eval_all.tasks_of(eval_all.parse(arguments))
    return [(task.model, task.method, task.config.stem) for task in tasks]


def test_eval_all_takes_checkpoints_beside_models_or_alone(tmp_path, run, clip):
    other = trained(tmp_path / "ot", clip, name="otseg")
    given = "--checkpoints", run, other, run, "--configs", "cfg_voc20", "ade20k"
    of_one, of_other = ([(path, head, name) for name in ("cfg_voc20", "cfg_ade20k")]
                        for path, head in ((run, "zegclip"), (other, "otseg")))  # fmt: skip
    assert planned(*given) == of_one + of_other
    of_mini = [("mini", "clip", name) for name in ("cfg_voc20", "cfg_ade20k")]
    assert planned(*given, "--models", "mini", "--methods", "clip") == of_mini + of_one + of_other
    on_all = {config for _, _, config in planned("--checkpoints", run)}
    assert on_all == {config for _, _, config in planned()} - {"cfg_scenes"} | {"cfg_voc20b"}
    assert ("vitb16-dino", "proxyclip", "cfg_voc20b") in planned("--configs", "voc20b", "voc20")
    both = planned("--checkpoints", run, "--models", "vitb16-dino")
    assert [model for model, _, config in both if config == "cfg_voc20b"] == [run]


def test_eval_all_runs_a_head_of_the_embedded_clip_on_its_scenes(tmp_path):
    from heads.clips import load_clip

    run = tiny_heads.saved(tmp_path / "run", clip=load_clip("mini")[0], decoder_heads=4)
    assert planned("--checkpoints", run) == [(run, "zegclip", "cfg_scenes")]
    assert planned("--checkpoints", run, "--configs", "cfg_voc20") == [(run, "zegclip", "cfg_voc20")]


@pytest.mark.parametrize(("arguments", "words"), [
    (["--checkpoints", "none"], "checkpoint none does not exist"),
    (["--train-config", "zegclip_voc20_inductive"], "--train-config describes --checkpoints"),
    (["--checkpoints", "none", "--methods", "clip"], "--methods is for --presets"),
])  # fmt: skip
def test_eval_all_refuses_at_once(tmp_path, capsys, arguments, words):
    with pytest.raises(SystemExit) as stopped:
        eval_all.main([*arguments, "--workdir", str(tmp_path / "out")])
    assert stopped.value.code == 2 and words in capsys.readouterr().err


def test_eval_all_writes_the_same_rows_for_scores_and_for_what_is_missing(tmp_path, run, clip, capsys):
    tiny_benchmarks.build(tmp_path / "data", "cfg_voc20", stored_labels("cfg_voc20"))
    folders = "--data-root", tmp_path / "data", "--workdir", tmp_path / "out"
    given = "--checkpoints", run, "--train-config", train_config(tmp_path), "--configs", "cfg_voc20", "cfg_ade20k"
    more = "--", "--set", f"clip={clip}", "--device", "cpu", "--workers", "0"
    eval_all.main(list(map(str, [*given, *folders, *more])))
    scored, missing = map(json.loads, (tmp_path / "out" / "results.jsonl").read_text().splitlines())
    assert scored["mIoU"] is not None and "looked for" in missing["missing"]
    assert scored["trained"] == missing["trained"] and scored["model"] == missing["model"] == "ZegCLIP"
    said = capsys.readouterr().out
    assert f"{run} zegclip     cfg_voc20" in said and f"{scored['mIoU']:.2f}" in said


def test_demo_takes_a_checkpoint(tmp_path, run, clip, monkeypatch, capsys):
    image = np.asarray(tiny_heads.tiny_clip.photograph(45, 60))
    Image.fromarray(image).save(tmp_path / "a.png")

    def show(*options):
        classes = ["--classes", "cat, dog; puppy, sheep", "--out", tmp_path / "out"]
        monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, [tmp_path / "a.png", *classes, *options])])
        demo.main()

    show("--checkpoint", run, "--clip", clip, "--crop", "24")
    expected = heads.load(run, clip=clip, crop=24).segment(image, ["cat", "dog; puppy", "sheep"])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a_labels.png")), expected.labels)
    assert json.loads((tmp_path / "out" / "a.json").read_text())["settings"]["method"] == "ZegCLIP"
    capsys.readouterr()
    for options, words in (
        (["--checkpoint", run, "--preset", "mini"], "--checkpoint names a whole model: leave out --preset"),
        (["--checkpoint", run, "--checkpoint-vfm", "a"], "leave out --checkpoint-vfm"),
        (["--checkpoint", run, "--clip", clip, "--beta", "2"], "no field 'beta' in the options of the method"),
        (["--checkpoint", tmp_path / "none"], "none does not exist"),
        (["--train-config", "zegclip_voc20_inductive"], "--train-config describes a --checkpoint"),
    ):
        with pytest.raises(SystemExit) as stopped:
            show(*options)
        assert stopped.value.code == 2 and words in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["demo.py", "--checkpoint", run])
    with pytest.raises(SystemExit):
        demo.main()
    assert "these options need an image" in capsys.readouterr().err


def test_dist_test_hands_the_checkpoint_on(tmp_path):
    command = ["bash", HERE / "dist_test.sh", "cfg_voc20.py", 2, "--checkpoint", tmp_path / "none"]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable}
    )
    assert done.returncode == 2 and done.stderr == f"error: checkpoint {tmp_path / 'none'} does not exist\n"
