"""train.py and dist_train.sh as they are called: a whole run, resume after a kill, several processes, and bad input."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ranks_helper
import tiny_model
import torch
from PIL import Image

import heads
import train as train_script
from configs.load import load_config
from configs.training import TrainConfig
from configs.training_data import training_batches
from datasets.augment import UNLABELLED
from datasets.training import TrainingSamples, read_batches, to_tensors
from heads.checkpoint import read_metadata
from proxyclip.evaluation.metrics import confusion, scores, seen_unseen
from proxyclip.evaluation.progress import hold_lock

HERE = Path(__file__).resolve().parents[1]
CONFIG = """
from dataclasses import replace
from configs.heads.{head} import runs
from datasets.scenes.dataset import SyntheticScenes

base = runs["{head}_scenes_{setting}"]
SPLITS = {{"train": range(1000, 1010), "tune": range(500, 502)}}
benchmark = replace(base.benchmark, data=SyntheticScenes(size=64, splits=SPLITS), split="tune")
options = {{**base.options, "image_size": 32, "short_side": 64, "crop": 32, "stride": 32, **{own}}}
augment = replace(base.augment, scale=(64, 64))
config = replace(base, benchmark=benchmark, evaluation_split=None, options=options, augment=augment, batch=2,
                 rate=1e-3, iterations=3, warmup=0, evaluate_every=0, save_every=2, log_every=1)
"""


@pytest.fixture
def config(tmp_path):
    """Writes the configuration of a small run; returns its path."""

    def write(head="zegclip", setting="inductive"):
        file = tmp_path / f"{head}_{setting}.py"
        own = {"clip_size": 32, "window": 2, "square": 64} if head == "cat_seg" else {"decoder_layers": 2}
        file.write_text(CONFIG.format(head=head, setting=setting, own=own))
        return file

    return write


def arguments(config, workdir, *more) -> list[str]:
    return list(map(str, ["--config", config, "--workdir", workdir, "--device", "cpu", "--workers", 0, *more]))


def run(config, workdir, *more) -> None:
    train_script.main(arguments(config, workdir, *more))


def log(workdir, group="training", *names):
    """The lines of a group; with names, these numbers of each."""
    lines = [json.loads(line) for line in (workdir / "train.jsonl").read_text().splitlines()]
    lines = [line[group] for line in lines if group in line]
    return [[line[name] for name in names] for line in lines] if names else lines


def refused(capsys, *given, code=2) -> str:
    """What a call that must fail with this exit code says, which is one line."""
    with pytest.raises(SystemExit) as stopped:
        run(*given)
    complaints = [line for line in capsys.readouterr().err.splitlines() if "images/s" not in line]
    assert stopped.value.code == code and len(complaints) == 1 and complaints[0].startswith("error: "), complaints
    return complaints[0]


def test_a_whole_run(config, tmp_path, capsys):
    """Inductive, then transductive from its checkpoint; both can be loaded and used."""
    first = tmp_path / "first"
    run(config(), first, "--set", "evaluate_every=2", "rate=2e-3")
    said = capsys.readouterr()
    assert "ZegCLIP on scenes, inductive: 17 of 24 classes seen, 10 images" in said.out
    assert "effective batch: 2 images × 1 process × 1 batch = 2 images per iteration" in said.out
    assert "training: 6/6 images" in said.err and "00:00 left, loss " in said.err
    assert {path.name for path in first.iterdir()} - {"tensorboard"} == {
        "best.safetensors", "last.safetensors", "state.pt", "train.jsonl", "curves.png"
    }  # fmt: skip
    assert np.asarray(Image.open(first / "curves.png")).std() > 5
    line = log(first)[-1]
    assert {"loss", "decode.loss_mask", "decode.loss_dice", "gradient_norm", "rate", "accuracy", "images_per_second",
            "memory_megabytes"} <= line.keys()  # fmt: skip
    assert line["images_per_second"] > 0 and line["memory_megabytes"] > 50
    assert [set(scores) for scores in log(first, "scores")] == [{"mIoU", "pAcc", "mIoU(S)", "mIoU(U)", "hIoU"}] * 2
    facts = read_metadata(first)
    assert facts.training["dataset"] == "scenes" and facts.training["setting"] == "inductive"
    assert len(facts.seen) == 17 and facts.clip == "mini-clip" and facts.options["image_size"] == 32
    model, found = heads.load(first / "last.safetensors", device="cpu"), load_config(config(), TrainConfig)
    matrix = np.zeros((24, 24), np.int64)
    for _, image, label in found.data.open(None, "tune"):
        matrix += confusion(model.segment(image, found.data.classes).labels, label, 24).numpy()
    unseen = [index for index, name in enumerate(found.data.classes) if name not in facts.seen]
    assert log(first, "scores")[-1] == pytest.approx({**seen_unseen(matrix, unseen), "mIoU": scores(matrix)["mIoU"]})

    second = tmp_path / "second"
    run(config(setting="transductive"), second, "--init-from", first, "--precision", "bf16", "--seed", 3)
    assert len(log(second)) == 3 and read_metadata(second).training["setting"] == "transductive"
    assert "note" not in capsys.readouterr().err
    run(config(setting="fully"), tmp_path / "third", "--init-from", second, "--iterations", 1)
    assert log(tmp_path / "third", "scores", "hIoU")


def test_weights_of_the_checkpoint_are_what_a_run_starts_from(config, tmp_path, monkeypatch):
    """And a note says so where a transductive run has none."""
    run(config(), tmp_path / "first", "--iterations", 1)
    started = {}
    monkeypatch.setattr("heads.training.loop.train", lambda training, *_: started.update(training.head.trained()))
    monkeypatch.setattr("heads.training.run.Training.check_best", lambda _: None)
    monkeypatch.setattr("heads.training.log.write_curves", lambda *_: None)
    run(config(setting="transductive"), tmp_path / "second", "--init-from", tmp_path / "first")
    expected = heads.load(tmp_path / "first", device="cpu").trained()
    assert started.keys() == expected.keys() and all(torch.equal(started[name], expected[name]) for name in expected)


def test_what_the_command_line_says_arrives(config, tmp_path, monkeypatch):
    """Every number of the configuration, in the part of the training that it is for."""
    caught = []
    monkeypatch.setattr("heads.training.loop.train", lambda *given: caught.append(given))
    monkeypatch.setattr("heads.training.run.Training.check_best", lambda _: None)
    monkeypatch.setattr("heads.training.log.write_curves", lambda *_: None)
    given = {
        "rate": 2e-2, "min_rate": 1e-4, "power": 0.5, "schedule": "cosine", "warmup": 3, "warmup_ratio": 0.2,
        "weight_decay": 0.3, "clip_norm": 0.4, "mask_weight": 5.0, "dice_weight": 6.0, "void": "masked", "batch": 3,
        "accumulation": 2, "evaluate_every": 7, "save_every": 8, "log_every": 9, "checkpointing": "true", "prompts": 4,
    }  # fmt: skip
    settings = [f"{name}={value}" for name, value in given.items()]
    more = ["--iterations", 11, "--minutes", 12, "--seed", 13, "--precision", "bf16", "--workers", 2]
    reading = {}
    monkeypatch.setattr(
        "configs.training_data.read_batches",
        lambda samples, **options: reading.update(options) or read_batches(samples, **options),
    )
    run(config(), tmp_path / "run", *more, "--set", *settings)
    (training, stream, _) = caught[0]
    group = training.optimiser.param_groups[0]
    assert (group["base"], group["weight_decay"]) == (0.02, 0.3)
    schedule, objective, recipe = training.schedule, training.objective, training.recipe
    assert (schedule.kind, schedule.power, schedule.min_rate, schedule.warmup) == ("cosine", 0.5, 1e-4, 3)
    assert (schedule.warmup_ratio, schedule.iterations, schedule.minutes) == (0.2, 11, 12)
    assert (recipe.mask_weight, recipe.dice_weight, recipe.void) == (5, 6, "masked")
    assert training.head.precision == torch.bfloat16 and objective.unseen is None
    assert objective.text.shape == (17, 128)
    assert (recipe.batch, recipe.accumulation) == (3, 2)
    assert (recipe.evaluate_every, recipe.save_every, recipe.log_every) == (7, 8, 9)
    assert (recipe.clip_norm, recipe.seed, training.choose, training.folder) == (0.4, 13, "hIoU", tmp_path / "run")
    assert training.head.encoder.checkpointing and training.head.encoder.prompts.shape[1] == 4
    expected = {"batch": 3, "start": 0, "rank": 0, "ranks": 1, "workers": 2, "device": training.head.device}
    assert reading == expected and next(stream, None) is None  # it was closed

    run(config(setting="transductive"), tmp_path / "second")
    training = caught[1][0]
    names = [training.head.classes[index] for index in training.objective.unseen]
    assert names == [name for name in training.head.classes if name not in training.head.seen] and len(names) == 7
    assert training.objective.text.shape == (24, 128)


@pytest.mark.parametrize("setting", ["inductive", "transductive", "fully"])
def test_batches_have_the_labels_that_the_setting_allows(setting, config):
    found = load_config(config(setting=setting), TrainConfig)
    samples = found.data.open(None, "train")

    def read(count, settings=found, **reading):
        with training_batches(settings, samples, **{"crop": 24} | reading) as stream:
            return [next(stream) for _ in range(count)]

    seen = np.zeros(1)
    for images, labels in read(10, start=4):
        assert images.shape == (2, 3, 24, 24) and labels.shape == (2, 24, 24)
        seen = np.union1d(seen, labels)
    unseen = [found.data.classes.index(name) for name in found.left_out]
    if setting == "inductive":
        assert seen.min() == -1 and seen.max() < 17
    elif setting == "transductive":
        assert seen.min() == UNLABELLED and not set(seen) & set(unseen) and seen.max() > 17
    else:
        assert seen.min() == 0 and set(seen) & set(unseen)
    later = read(3)[2][0]
    assert torch.equal(later, read(1, start=4)[0][0])
    assert not torch.equal(later, read(1, replace(found, seed=1), start=4)[0][0])
    plain = replace(found, augment=replace(found.augment, flip=0.0, distort=False, ratio=(1.0, 1.0), max_share=1.0))
    image = read(1, plain, crop=64)[0][0][0]
    assert any(torch.equal(image, torch.from_numpy(one.image).permute(2, 0, 1) / 255) for one in samples)


def test_evaluations_can_be_limited(config, tmp_path, capsys):
    """To as many images as there are: full scores. A run has one limit from its start to its end."""
    for limit, name in ((1, "scores_of_1_images"), (2, "scores")):
        workdir = tmp_path / f"{limit}"
        run(config(setting="fully"), workdir, "--limit", limit)
        lines = [json.loads(line) for line in (workdir / "train.jsonl").read_text().splitlines()]
        assert list(lines[-1]) == ["iteration", name]
        assert list(read_metadata(workdir).training)[-1] == name
    capsys.readouterr()
    assert "holds a run with limit 1, not None" in refused(capsys, config(setting="fully"), tmp_path / "1", "--resume")


def test_labels_without_the_classes_of_the_score_end_with_a_sentence(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("heads.training.loop.scores_on", lambda *_, **__: lambda: {"mIoU": 3.0, "hIoU": float("nan")})
    for more in ([], ["--resume"]):
        complaint = refused(capsys, config(), tmp_path / "run", *more)
        assert "no hIoU is a number" in complaint and "no best checkpoint, only last.safetensors" in complaint
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"last.safetensors", "curves.png"}
    assert not (tmp_path / "run" / "best.safetensors").exists()


def start(work, *given):
    process = multiprocessing.get_context("fork").Process(target=work, args=given)
    process.start()
    return process


def in_child(given: list[str]) -> None:
    torch.set_num_threads(1)
    train_script.main(given)


@pytest.fixture
def one_thread():
    """As in the children: some libraries add up in another order with more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("head", ["cascade_clip", "cat_seg"])
def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(head, config, tmp_path, one_thread):
    """Kill -9 at a random moment, twice; losses and weights are those of an unbroken run, to the last bit."""
    settings = ["--iterations", 24, "--set", "save_every=3", "evaluate_every=10"]
    run(config(head), tmp_path / "whole", *settings)
    random = np.random.default_rng()
    for lines in (int(random.integers(1, 9)), int(random.integers(10, 20))):
        process = start(in_child, arguments(config(head), tmp_path / "killed", *settings, "--resume"))
        written = tmp_path / "killed" / "train.jsonl"
        deadline = time.monotonic() + 60
        while not written.exists() or written.read_bytes().count(b"\n") < lines:
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    run(config(head), tmp_path / "killed", *settings, "--resume")
    names = "loss", "gradient_norm", "rate", "accuracy"
    assert log(tmp_path / "killed", "training", *names) == log(tmp_path / "whole", "training", *names)
    assert log(tmp_path / "killed", "scores") == log(tmp_path / "whole", "scores")
    for name in ("last.safetensors", "best.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_workdir_holds_one_run(config, tmp_path, capsys):
    folder = tmp_path / "run"
    run(config(), folder, "--resume")  # nothing to resume: a new run
    before = (folder / "last.safetensors").read_bytes()
    capsys.readouterr()
    assert f"{folder} holds a run: --resume continues it" in refused(capsys, config(), folder)
    run(config(), folder, "--resume")
    assert "already trained" in capsys.readouterr().out and len(log(folder)) == 3
    for changed, sentence in (
        (["--set", "rate=5e-4"], "holds a run with rate 0.001, not 0.0005: continue it with its own settings"),
        (["--set", "decoder_layers=3"], "holds a run with options {'image_size': 32,"),
        (["--iterations", 9], "holds a run with iterations 3, not 9"),
        (["--seed", 1], "holds a run with seed 0, not 1"),
        (["--set", "batch=1"], "holds a run with images_per_iteration 2, not 1"),
        (["--precision", "bf16"], "holds a run with precision float32, not bfloat16"),
        (["--minutes", 3], "holds a run with minutes None, not 3.0"),
    ):
        assert sentence in refused(capsys, config(), folder, "--resume", *changed)
    run(config(), folder, "--resume", "--set", "batch=1", "accumulation=2", "log_every=7", "checkpointing=true")
    assert "already trained" in capsys.readouterr().out
    assert "holds a run with head zegclip, not otseg" in refused(capsys, config("otseg"), folder, "--resume")
    (folder / "state.pt").unlink()
    assert "cannot be resumed: its state.pt is missing" in refused(capsys, config(), folder, "--resume")
    assert (folder / "last.safetensors").read_bytes() == before
    with hold_lock(tmp_path / "busy" / ".lock"):
        assert start_and_code(arguments(config(), tmp_path / "busy")) == 2


def start_and_code(given: list[str]) -> int:
    """The exit code of a run in another process: this one holds its own locks."""
    process = start(in_child, given)
    process.join(60)
    return process.exitcode


@pytest.mark.parametrize(("given", "sentence"), [
    (["--set", "rte=1"], "no field 'rte' in the configuration or head zegclip; did you mean rate"),
    (["--set", "batch=two"], "batch must be a whole number, not 'two'"),
    (["--set", "decoder_heads=5"], "decoder_heads 5 does not divide the width 128 of this CLIP's embeddings"),
    (["--set", "clip=ViT-B-61"], "unknown CLIP 'ViT-B-61'"),
    (["--set", "train_split=val"], "scenes has no split 'val'"),
    (["--set", "unseen=otseg"], "scenes has no unseen 'otseg'"),
    (["--set", "text_embeddings=/nowhere.npy"], "text embeddings /nowhere.npy do not exist"),
    (["--iterations", "0"], "--iterations must be at least 1, not 0"),
    (["--limit", "0"], "--limit must be at least 1, not 0"),
    (["--minutes", "0"], "--minutes must be above 0 and at most 1000000, not 0.0"),
    (["--minutes", "nan"], "--minutes must be above 0 and at most 1000000, not nan"),
    (["--seed", "-1"], "--seed must be at least 0, not -1"),
    (["--precision", "fp16"], "fp16 is for inference: its gradients overflow"),
    (["--device", "gpu"], "unknown device 'gpu'"),
    (["--workers", "999"], "--workers must be at most 256, not 999"),
    (["--checkpoint-clip", "/nowhere"], "checkpoint /nowhere does not exist"),
    (["--init-from", "/nowhere"], "checkpoint /nowhere does not exist"),
    (["--config", "zegclip_voc20_indctive"], "unknown configuration 'zegclip_voc20_indctive'; did you mean"),
    (["--config", "zegclip_voc20_inductive", "--data-root", "/nowhere"], "voc20 was looked for in /nowhere/VOCdevkit"),
])  # fmt: skip
@pytest.mark.parametrize("check", [[], ["--check"]])
def test_bad_input_is_one_sentence_before_work_starts(given, sentence, check, config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("heads.training.plan.load_clip", None)  # no weights are loaded
    assert sentence in refused(capsys, config(), tmp_path / "run", *given, *check)
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_a_dataset_without_the_split(config, tmp_path, capsys):
    file = config()
    file.write_text(file.read_text().replace('"train": range(1000, 1010), ', ""))
    assert "scenes has no split 'train'" in refused(capsys, file, tmp_path / "run")


def test_checkpoints_that_a_run_cannot_start_from(config, tmp_path, capsys):
    first = tmp_path / "first"
    run(config(), first, "--iterations", 1)
    for file, changes, sentence in (
        (config("otseg", "transductive"), [], "of head zegclip, not otseg"),
        (config(setting="transductive"), ["--set", "decoder_layers=3", "--check"], "missing"),
        (config(setting="transductive"), ["--set", f"clip={tiny_clip_folder(tmp_path)}"], "trained on another CLIP"),
    ):
        assert sentence in refused(capsys, file, tmp_path / "run", "--init-from", first, *changes)
        assert not (tmp_path / "run" / "state.pt").exists()
    fully = tmp_path / "fully"
    run(config(setting="fully"), fully, "--iterations", 1)
    complaint = refused(capsys, config(), tmp_path / "run", "--init-from", fully, "--check")
    assert "was trained with other seen classes (24) than those given (17): only in the checkpoint: snow" in complaint


def tiny_clip_folder(tmp_path) -> Path:
    """A CLIP as large as the embedded one, with other weights."""
    from proxyclip.loading import MINI

    folder = tmp_path / "clip"
    if not folder.exists():
        from safetensors.torch import load_file, save_file

        folder.mkdir()
        for file in (MINI / "clip").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        weights = load_file(folder / "open_clip_model.safetensors")
        weights["visual.proj"] = weights["visual.proj"] * 1.01
        save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def test_check_starts_nothing(config, tmp_path, capsys):
    run(config(), tmp_path / "run", "--check")
    assert not list((tmp_path / "run").iterdir())


def test_numbers_that_are_not_finite_end_the_run_with_code_1(config, tmp_path, capsys, monkeypatch):
    calls = []

    def spoilt(*arrays):
        calls.append(None)
        images, labels = to_tensors(*arrays)
        return (images * float("nan") if len(calls) == 4 else images), labels

    monkeypatch.setattr("datasets.training.to_tensors", spoilt)
    complaint = refused(capsys, config(), tmp_path / "run", "--iterations", 6, code=1)
    assert "training stopped in iteration 4: loss is nan, decode.loss_mask is nan" in complaint
    assert "gradients of encoder.prompts, " in complaint and "is that of iteration 2: try a lower rate" in complaint
    assert read_metadata(tmp_path / "run" / "last.safetensors").training["iteration"] == 2
    run(config(), tmp_path / "run", "--iterations", 6, "--resume")
    assert len(log(tmp_path / "run")) == 6


def test_a_killed_worker_ends_the_run_with_a_sentence(config, tmp_path, capsys, monkeypatch):
    read, parent = TrainingSamples.read, os.getpid()

    def deadly(self, position):
        if position == 8 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, position)

    monkeypatch.setattr(TrainingSamples, "read", deadly)
    settings = ["--iterations", 9, "--set", "save_every=1"]
    complaint = refused(capsys, config(), tmp_path / "run", *settings, "--workers", 1)
    assert "a data-loading worker was killed" in complaint and "rerun with --resume" in complaint
    run(config(), tmp_path / "run", *settings, "--resume")
    assert len(log(tmp_path / "run")) == 9


def test_two_processes_give_the_losses_of_one_with_twice_the_batch(config, tmp_path):
    """Through dist_train.sh."""
    settings = ["--iterations", 3, "--set", "dropout=0"]
    run(config(), tmp_path / "one", *settings, "batch=4")
    command = ["bash", HERE / "dist_train.sh", config(), 2, "--workdir", tmp_path / "two", "--device", "cpu",
               "--workers", 0, *settings]  # fmt: skip
    here = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "PORT": str(ranks_helper.free_port())}
    done = subprocess.run(list(map(str, command)), env=os.environ | here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 images × 2 processes × 1 batch = 4 images per iteration" in done.stdout
    assert done.stdout.count("effective batch") == 1
    names = "loss", "decode.loss_mask", "decode.loss_dice", "gradient_norm"
    one, two = (np.array(log(tmp_path / name, "training", *names)) for name in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=1e-5)
    assert log(tmp_path / "one", "scores") == log(tmp_path / "two", "scores")


def test_dist_train_says_once_what_is_wrong(tmp_path):
    here = os.environ | {"PYTHON": sys.executable}
    for given, sentence in (
        ([], "error: name a configuration: bash dist_train.sh CONFIG [PROCESSES] [options of train.py]"),
        (
            ["zegclip_voc20_inductive", 2, "--data-root", tmp_path, "--workdir", tmp_path / "out"],
            "error: voc20 was look",
        ),
    ):
        command = list(map(str, ["bash", HERE / "dist_train.sh", *given]))
        done = subprocess.run(command, capture_output=True, text=True, env=here)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(sentence)


assert tiny_model  # sets the number of threads
