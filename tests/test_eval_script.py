"""eval.py, eval_all.py and dist_test.sh as they are called: every benchmark's layout, resume, and bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ranks_helper
import tiny_benchmarks
import tiny_model
from openpyxl import load_workbook
from PIL import Image

import eval as eval_script
import eval_all

HERE = Path(__file__).resolve().parents[1]
# configuration: classes, stored value of class 0, stored values that are not scored
RULES = {
    "cfg_voc21": (21, 0, [255]),
    "cfg_voc20": (20, 1, [0, 255]),
    "cfg_voc20b": (21, 0, [255]),
    "cfg_context60": (60, 0, []),
    "cfg_context59": (59, 1, [0, 255]),
    "cfg_context459": (459, 0, []),
    "cfg_coco_object": (81, 0, []),
    "cfg_coco_stuff164k": (171, 0, [255]),
    "cfg_city_scapes": (19, 0, [255]),
    "cfg_ade20k": (150, 1, [0, 255]),
    "cfg_ade847": (847, 0, [65535]),
}
SIZES = ((45, 60), (57, 48))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The --set of a tiny model."""
    return ["--set", *tiny_model.save(tmp_path_factory.mktemp("model"))]


def stored_labels(config: str) -> list[np.ndarray]:
    """Two labels with blocks of a few classes, the last one among them, and of every value that is not scored."""
    classes, first, void = RULES[config]
    random = np.random.default_rng(len(config))
    values = [first, first + classes - 1, *(first + random.integers(0, classes, 3)), *void]
    return [random.choice(values, (-(-h // 9), -(-w // 9))).repeat(9, 0).repeat(9, 1)[:h, :w] for h, w in SIZES]


def evaluate(config, tmp_path, *options, labels=None):
    """Runs eval.py in this process on a tiny benchmark; returns the last line of results.jsonl."""
    root = tmp_path / "data"
    if not root.exists():
        tiny_benchmarks.build(root, config, labels or stored_labels(config))
    common = ["--data-root", root, "--workdir", tmp_path / "out", "--workers", 0, "--device", "cpu"]
    eval_script.main(["--config", str(config), *map(str, [*common, *options])])
    return json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[-1])


def written_by_run(folder: Path, stem: str) -> Path:
    """STEM.png in the folder of the only run."""
    (run,) = folder.iterdir()
    return run / f"{stem}.png"


def refused(capsys, *arguments) -> str:
    """What a call that must fail with exit code 2 says, which is one line."""
    with pytest.raises(SystemExit) as stopped:
        evaluate(*arguments)
    assert stopped.value.code == 2
    complaints = [line for line in capsys.readouterr().err.splitlines() if "images/s" not in line]
    assert len(complaints) == 1 and complaints[0].startswith("error: "), complaints
    return complaints[0]


@pytest.mark.parametrize("config", sorted(RULES))
def test_every_layout_is_scored_as_by_hand(config, tmp_path, model):
    """From the saved predictions and the files' own values, pixel by pixel."""
    labels = stored_labels(config)
    run = evaluate(config, tmp_path, *model, "--save-predictions", labels=labels)
    classes, first, void = RULES[config]
    hit, labelled, predicted = {}, {}, {}
    stems = tiny_benchmarks.LAYOUTS[config][3]
    for stem, stored in zip(stems, labels, strict=True):
        guess = np.asarray(Image.open(written_by_run(tmp_path / "out" / "predictions", stem)))
        assert guess.shape == stored.shape and guess.dtype == (np.uint8 if classes <= 255 else np.uint16)
        for value, found in zip(stored.ravel().tolist(), guess.ravel().tolist(), strict=True):
            if value not in void:
                true = value - first
                labelled[true] = labelled.get(true, 0) + 1
                predicted[found] = predicted.get(found, 0) + 1
                hit[true] = hit.get(true, 0) + (true == found)
    unions = {k: labelled.get(k, 0) + predicted.get(k, 0) - hit.get(k, 0) for k in labelled.keys() | predicted.keys()}
    ious = {k: 100 * hit.get(k, 0) / union for k, union in unions.items()}
    assert run["images"] == 2 and len(run["per_class"]) == classes
    assert run["mIoU"] == pytest.approx(sum(ious.values()) / len(ious))
    assert run["mIoU_present"] == pytest.approx(sum(ious[k] for k in labelled) / len(labelled))
    assert run["aAcc"] == pytest.approx(100 * sum(hit.values()) / sum(labelled.values()))
    assert run["mAcc"] == pytest.approx(sum(100 * hit[k] / n for k, n in labelled.items()) / len(labelled))
    assert sum(figures["labelled"] for figures in run["per_class"].values()) == sum(labelled.values())


def test_a_run_says_what_it_was(tmp_path, model, capsys):
    run = evaluate("cfg_voc20", tmp_path, *model, "--set", "beta=1.1", "--limit", "1")
    assert {"dataset", "model", "clip", "vfm", "images", "aAcc", "mIoU", "mAcc", "mIoU_present", "fwIoU", "per_class",
            "protocol", "seconds"} <= run.keys()  # fmt: skip
    assert (run["dataset"], run["model"], run["images"]) == ("voc20", "ProxyCLIP", 1)
    protocol = run["protocol"]
    assert (protocol["beta"], protocol["crop"], protocol["limit"], protocol["templates"]) == (1.1, 32, 1, 1)
    assert set(run["zero_shot"]["zegclip"]) == {"pAcc", "mIoU(S)", "mIoU(U)", "hIoU"}
    assert f"mIoU {run['mIoU']:.2f}" in capsys.readouterr().out
    book = load_workbook(tmp_path / "out" / "results.xlsx")
    assert [cell.value for cell in book["runs"][1]][:7] == ["Model", "CLIP", "VFM", "Dataset", "aAcc", "mIoU", "mAcc"]
    assert not list((tmp_path / "out" / "progress").iterdir())


def test_other_methods_have_their_own_names(tmp_path, model):
    assert evaluate("cfg_voc20", tmp_path, *model, "--method", "maskclip")["model"] == "MaskCLIP"
    run = evaluate("cfg_voc20", tmp_path, *model, "--method", "clip")
    assert (run["model"], run["vfm"]) == ("CLIP", None)


def test_pictures_and_report(tmp_path, model):
    evaluate("cfg_city_scapes", tmp_path, *model, "--show-dir", tmp_path / "show", "--report", tmp_path / "report")
    for stem in tiny_benchmarks.LAYOUTS["cfg_city_scapes"][3]:
        width, height = Image.open(written_by_run(tmp_path / "show", stem)).size
        assert width > 2 * height * 0.8
    (own,) = (tmp_path / "report").iterdir()
    assert {path.name for path in own.iterdir()} == {
        "report.html", "per_class.png", "confusions.png", "worst.png",
    }  # fmt: skip


def test_runs_in_one_workdir_do_not_overwrite_each_other_s_files(tmp_path, model):
    for more in ([], ["--set", "gamma=5"], ["--limit", "1"]):
        evaluate("cfg_voc20", tmp_path, *model, *more, "--save-predictions", "--show-dir", tmp_path / "show")
    for folder in (tmp_path / "out" / "predictions", tmp_path / "show"):
        assert sorted(len(list(run.iterdir())) for run in folder.iterdir()) == [1, 2, 2]


def test_resume_after_the_end_computes_nothing_again(tmp_path, model, capsys):
    first = evaluate("cfg_voc20", tmp_path, *model)
    assert evaluate("cfg_voc20", tmp_path, *model, "--resume") == first
    assert "already evaluated" in capsys.readouterr().out
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 1
    other = evaluate("cfg_voc20", tmp_path, *model, "--set", "gamma=5", "--resume")
    assert other["protocol"]["gamma"] == 5


def pairs_of(tmp_path, config="cfg_voc20"):
    return tiny_benchmarks.build(tmp_path / "data", config, stored_labels(config))


def test_absent_and_wrong_root(tmp_path, capsys, model):
    (tmp_path / "data").mkdir()
    assert "voc20 was looked for in" in refused(capsys, "cfg_voc20", tmp_path, *model)
    pairs_of(tmp_path)
    inside = ["--data-root", tmp_path / "data" / "VOCdevkit"]
    assert "did you mean" in refused(capsys, "cfg_voc20", tmp_path, *model, *inside)


def test_empty_split_file(tmp_path, capsys, model):
    pairs_of(tmp_path)
    listing = tmp_path / "data" / tiny_benchmarks.LAYOUTS["cfg_voc20"][2]
    listing.write_text("\r\n")
    assert "lists no image" in refused(capsys, "cfg_voc20", tmp_path, *model)


@pytest.mark.parametrize("which", [1, 2])
def test_image_without_label_and_label_without_image(which, tmp_path, capsys, model):
    lost = pairs_of(tmp_path)[1][which]
    lost.unlink()
    assert f"{lost} not found" in refused(capsys, "cfg_voc20", tmp_path, *model)
    run = evaluate("cfg_voc20", tmp_path, *model, "--skip-bad")
    assert run["images"] == 1 and list(run["skipped"]) == ["2007_000042"]


def break_size(image, label):
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(label)


def break_value(image, label):
    Image.fromarray(np.full(SIZES[1], 77, np.uint8)).save(label)


def break_image(image, label):
    image.write_bytes(image.read_bytes()[:-700])


def break_mode(image, label):
    Image.fromarray(np.zeros((*SIZES[1], 3), np.uint8)).save(label)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_size, "different sizes"),
        (break_value, "contains the value 77"),
        (break_image, "truncated or corrupted file"),
        (break_mode, "has mode RGB"),
    ],
)
def test_bad_files_stop_the_run_or_are_skipped_and_nothing_is_lost(damage, words, tmp_path, capsys, model):
    (_, good, _), (stem, image, label) = pairs_of(tmp_path)
    whole = image.read_bytes(), label.read_bytes()
    damage(image, label)
    run = evaluate("cfg_voc20", tmp_path, *model, "--skip-bad")
    assert run["images"] == 1 and list(run["skipped"]) == [stem] and words in run["skipped"][stem]
    complaint = refused(capsys, "cfg_voc20", tmp_path, *model)
    assert words in complaint and stem in complaint and "--skip-bad" in complaint
    image.write_bytes(whole[0])
    label.write_bytes(whole[1])
    good.write_bytes(b"would be an error if it were read again")
    assert evaluate("cfg_voc20", tmp_path, *model, "--resume")["images"] == 2


def test_misspelt_field_of_a_config_and_of_set(tmp_path, capsys, model):
    pairs_of(tmp_path)
    config = tmp_path / "cfg_mine.py"
    config.write_text("from configs.cfg_voc20 import VOC20\nfrom configs.base import EvalConfig\n"
                      "config = EvalConfig(data=VOC20, short_sid=224)\n")  # fmt: skip
    assert "short_side" in refused(capsys, config, tmp_path, *model)
    assert "stride" in refused(capsys, "cfg_voc20", tmp_path, *model, "--set", "strid=8")
    assert "cfg_voc20" in refused(capsys, "cfg_vocc20", tmp_path, *model)


@pytest.mark.parametrize(("line", "words"), [(4, "repeats line"), (None, "empty name")])
def test_class_file_with_a_repeated_or_an_empty_line(line, words, tmp_path, capsys, model):
    pairs_of(tmp_path)
    lines = (HERE / "configs" / "words" / "voc20.txt").read_text().splitlines()
    lines[7] = "" if line is None else lines[line]
    (tmp_path / "words.txt").write_text("\n".join(lines))
    assert words in refused(capsys, "cfg_voc20", tmp_path, *model, "--set", f"words={tmp_path / 'words.txt'}")


def test_numbers_out_of_range(tmp_path, capsys, model):
    assert "--limit must be at least 1" in refused(capsys, "cfg_voc20", tmp_path, *model, "--limit", "0")
    assert "--workers must be at least 0" in refused(capsys, "cfg_voc20", tmp_path, *model, "--workers", "-1")


def test_torn_last_line_is_named_and_kept_aside(tmp_path, model):
    first = evaluate("cfg_voc20", tmp_path, *model)
    log = tmp_path / "out" / "results.jsonl"
    torn = log.read_bytes()[:150]
    with open(log, "ab") as file:
        file.write(torn)
    second = evaluate("cfg_voc20", tmp_path, *model)
    assert [json.loads(line)["mIoU"] for line in log.read_text().splitlines()] == [first["mIoU"], second["mIoU"]]
    assert (tmp_path / "out" / "results.jsonl.torn").read_bytes() == torn + b"\n"


def test_workbook_open_in_another_program(tmp_path, capsys, model, monkeypatch):
    """On Windows such a file cannot be replaced."""
    replace = os.replace

    def refuse(source, target):
        if str(target).endswith(".xlsx"):
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    pairs_of(tmp_path)
    with monkeypatch.context() as locked:
        locked.setattr(os, "replace", refuse)
        complaint = refused(capsys, "cfg_voc20", tmp_path, *model)
    assert "open in another program" in complaint and "no scores are lost" in complaint
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 1
    eval_all.main(["--render", "--workdir", str(tmp_path / "out")])
    assert load_workbook(tmp_path / "out" / "results.xlsx")["runs"].max_row == 2


def test_disk_full_while_the_result_is_written(tmp_path, capsys, model):
    """What was computed is still there: with room again, nothing is read a second time."""
    (_, image, _), _ = pairs_of(tmp_path)
    log = tmp_path / "out" / "results.jsonl"
    log.parent.mkdir()
    log.symlink_to("/dev/full")
    assert "No space left on device" in refused(capsys, "cfg_voc20", tmp_path, *model)
    log.unlink()
    image.write_bytes(b"would be an error if it were read again")
    assert evaluate("cfg_voc20", tmp_path, *model, "--resume")["images"] == 2


def test_eval_all_goes_on_and_says_what_is_missing(tmp_path, model):
    pairs_of(tmp_path)
    broken = tiny_benchmarks.build(tmp_path / "data", "cfg_ade20k", stored_labels("cfg_ade20k"))
    broken[0][2].unlink()
    command = [sys.executable, HERE / "eval_all.py", "--models", "vitb16-dino", "--data-root", tmp_path / "data",
               "--workdir", tmp_path / "out", "--configs"]  # fmt: skip
    both = [*command, "cfg_ade20k", "cfg_context59", "cfg_voc20", "--", *model, "--device", "cpu"]
    done = subprocess.run(
        list(map(str, both)), capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    assert (
        "proxyclip cfg_ade20k failed vitb16-dino proxyclip cfg_context59 missing vitb16-dino proxyclip cfg_voc20"
        in said
    )
    assert f"cfg_ade20k failed: ade20k: {broken[0][2]} not found" in said
    assert "cfg_context59 missing: context59 was looked for in" in said
    run = json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[-1])
    assert f"cfg_voc20 {run['mIoU']:.2f} {run['aAcc']:.2f} 2" in said
    assert "voc20: 2/2 images" in done.stderr
    book = load_workbook(tmp_path / "out" / "results.xlsx")
    notes = [str(row[15].value) for row in book["runs"].iter_rows(min_row=2)]
    assert notes[0].startswith("failed: ") and notes[1].startswith("missing: ") and notes[2] == "None"


def test_eval_all_succeeds_when_nothing_that_is_here_failed(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    eval_all.main(["--configs", "cfg_voc20", "--models", "vitb16-dino", "--data-root", str(tmp_path / "data"),
                   "--workdir", str(tmp_path / "out")])  # fmt: skip
    assert "missing: voc20 was looked for in" in capsys.readouterr().out
    sheet = load_workbook(tmp_path / "out" / "results.xlsx")["benchmark"]
    assert any(cell.value == "missing" for row in sheet.iter_rows() for cell in row)


def test_eval_all_shows_the_scores_of_what_was_done_before(tmp_path, model):
    """And it adds no line twice: neither of a run nor of a dataset that is missing."""
    pairs_of(tmp_path)
    command = [sys.executable, HERE / "eval_all.py", "--models", "vitb16-dino", "vitb16-dino", "--methods", "maskclip",
               "--data-root", tmp_path / "data", "--workdir", tmp_path / "out", "--resume",
               "--configs", "cfg_voc20", "voc20", "cfg_ade20k", "--", *model, "--device", "cpu"]  # fmt: skip
    tables = []
    for _ in range(2):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        tables.append(done.stdout[done.stdout.index("model ") :])
        lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
        assert [(line["model"], line["dataset"], "missing" in line) for line in lines] == [
            ("MaskCLIP", "voc20", False), ("MaskCLIP", "ade20k", True)
        ]  # fmt: skip
    assert tables[0] == tables[1]
    assert f"maskclip    cfg_voc20             {lines[0]['mIoU']:>8.2f}" in tables[1]


def test_dist_test_says_once_what_is_wrong(tmp_path):
    command = ["bash", HERE / "dist_test.sh", "cfg_voc20.py", 2, "--data-root", tmp_path, "--workdir", tmp_path / "out"]
    here = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=here)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: voc20 was looked for in")


def test_two_machines_give_the_result_of_one(tmp_path, model):
    """Two torchrun agents that meet on the loopback address, through dist_test.sh."""
    alone = evaluate("cfg_voc20", tmp_path, *model)
    port = ranks_helper.free_port()
    command = ["bash", HERE / "dist_test.sh", "cfg_voc20.py", 1, "--data-root", tmp_path / "data", "--workdir",
               tmp_path / "two", "--device", "cpu", *model]  # fmt: skip
    agents = []
    for rank in range(2):
        here = {"NNODES": 2, "NODE_RANK": rank, "MASTER_ADDR": "127.0.0.1", "PORT": port, "PYTHON": sys.executable,
                "OMP_NUM_THREADS": 1}  # fmt: skip
        environment = os.environ | {name: str(value) for name, value in here.items()}
        agents.append(subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.DEVNULL))
    assert [agent.wait(120) for agent in agents] == [0, 0]
    together = json.loads((tmp_path / "two" / "results.jsonl").read_text())
    assert together["per_class"] == alone["per_class"] and together["images"] == 2
