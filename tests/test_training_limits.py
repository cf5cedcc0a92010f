"""What a training run meets outside: the clock, a full disk, TensorBoard, and other processes."""

import resource
import sys
from dataclasses import replace
from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import ranks_helper
import tiny_training
import torch
from tiny_training import PROMPTED, logged, new_run, planned, stream
from torch.nn.parallel import DistributedDataParallel

from heads.checkpoint import BEST, LAST, read_metadata
from heads.training.log import LOG, TrainingLog, panels_of, read_log, write_curves
from heads.training.loop import step, train
from heads.training.run import STATE, Training
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.errors import InputError

SCORES = {"mIoU": 10.0, "hIoU": 20.0}


def test_a_limit_of_time(monkeypatch, tmp_path):
    """Every look at the clock takes 6 seconds: 10 iterations in a minute. The rate follows the clock, the end is clean,
    and a resumed run has the time that was left."""
    seconds = [0.0]

    def clock():
        seconds[0] += 6
        return seconds[0]

    monkeypatch.setattr("heads.training.run.time", SimpleNamespace(monotonic=clock))
    plan = planned(monkeypatch)
    settings = {"iterations": 1000, "minutes": 1, "save_every": 1}
    run = new_run(plan, tmp_path / "run", **settings)
    train(run, stream(run), lambda: SCORES)
    assert run.progress.iteration == 9 and run.progress.finished and (tmp_path / "run" / BEST).exists()
    rates = logged(tmp_path / "run", name="rate")
    expected = [run.schedule.rate(1e-3, 0, done / 10) for done in range(1, 10)]
    assert rates == pytest.approx(expected) and rates[-1] < 0.2 * rates[0]

    run = new_run(plan, tmp_path / "again", **settings)
    batches = stream(run)
    with pytest.raises(KeyboardInterrupt):
        train(run, interrupted(batches, after=4), lambda: SCORES)
    seconds[0] += 1000  # a pause
    rest = new_run(plan, tmp_path / "again", resume=True, **settings)
    train(rest, stream(rest), lambda: SCORES)
    assert rest.progress.iteration == 9


def interrupted(batches, after: int):
    for _ in range(after):
        yield next(batches)
    raise KeyboardInterrupt


@pytest.mark.parametrize("stopped", [LOG, LAST, STATE])
def test_a_disk_that_is_full_leaves_the_last_save(stopped, monkeypatch, tmp_path):
    """And the run goes on from it once there is room again. The limit of a file's size stands for a full disk: it stops
    the log, the checkpoint, or the state."""
    plan = planned(monkeypatch)
    whole = new_run(plan, tmp_path / "whole", iterations=6)
    train(whole, stream(whole), lambda: SCORES)
    sizes = {LOG: 100, LAST: 10_000, STATE: (tmp_path / "whole" / LAST).stat().st_size + 10_000}
    assert sizes[STATE] < (tmp_path / "whole" / STATE).stat().st_size
    run = new_run(plan, tmp_path / "run", iterations=6, save_every=2)
    before = {}

    def filling():
        for index, batch in enumerate(stream(run)):
            if index == 2:
                before.update({name: (tmp_path / "run" / name).read_bytes() for name in (LAST, STATE)})
                resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[stopped], limits[1]))
            yield batch

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(InputError, match=f"cannot write .*{stopped} .File too large"):
            train(run, filling(), lambda: SCORES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    after = {name: (tmp_path / "run" / name).read_bytes() for name in (LAST, STATE)}
    assert after[STATE] == before[STATE] and (after[LAST] == before[LAST]) == (stopped != STATE)
    assert read_metadata(tmp_path / "run").training["iteration"] == (4 if stopped == STATE else 2)
    assert not [path for path in (tmp_path / "run").iterdir() if path.suffix == ".tmp"]
    rest = new_run(plan, tmp_path / "run", iterations=6, save_every=2, resume=True)
    assert rest.progress.iteration == 2
    train(rest, stream(rest), lambda: SCORES)
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")


class Board:
    """Stands for TensorBoard's writer."""

    made = []

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars, self.closed = folder, purge_step, {}, False
        self.made.append(self)

    def add_scalar(self, name, value, step):
        self.scalars[name, step] = value

    def close(self):
        self.closed = True


@pytest.fixture
def board(monkeypatch):
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Board
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Board, "made", [])
    return Board.made


def test_tensorboard_gets_what_the_log_gets(board, monkeypatch, tmp_path, capsys):
    plan = planned(monkeypatch)
    run = new_run(plan, tmp_path / "run", iterations=2)
    train(run, stream(run), lambda: SCORES)
    (writer,) = board
    assert writer.folder == str(tmp_path / "run" / "tensorboard") and writer.purge_step == 1
    lines = {(group, line["iteration"]): line[group] for line in read_log(tmp_path / "run" / LOG) for group in line}
    expected = {
        (f"{group}/{name}", iteration): value
        for (group, iteration), numbers in lines.items()
        if group != "iteration"
        for name, value in numbers.items()
    }
    assert writer.scalars == expected and "TensorBoard" not in capsys.readouterr().out
    assert {"training/loss", "training/rate", "training/images_per_second", "training/memory_megabytes",
            "scores/hIoU"} <= {name for name, _ in expected}  # fmt: skip
    log = TrainingLog(tmp_path / "run", 1, 0)
    assert board[1].purge_step == 2
    log.close()
    assert board[1].closed


def test_without_tensorboard_one_sentence_is_printed(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = new_run(planned(monkeypatch), tmp_path / "run", iterations=1)
    train(run, stream(run), lambda: SCORES)
    assert capsys.readouterr().out.count("TensorBoard is not installed") == 1
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_log_is_continued_where_the_state_is(tmp_path):
    """Lines of later iterations and a torn last one are removed; values that are not finite are null."""
    log = TrainingLog(tmp_path, 0, 0)
    for iteration in (1, 2, 3):
        log.add(iteration, "training", {"loss": float(iteration)})
    log.add(3, "scores", {"hIoU": float("nan")})
    assert read_log(tmp_path / LOG)[-1] == {"iteration": 3, "scores": {"hIoU": None}}
    with open(tmp_path / LOG, "a") as file:
        file.write('{"iteration": 4, "trai')
    TrainingLog(tmp_path, 3, 3)
    assert len(read_log(tmp_path / LOG)) == 4
    TrainingLog(tmp_path, 3, 2)  # killed between an evaluation and the save after it
    assert logged(tmp_path) == [1.0, 2.0, 3.0] and not logged(tmp_path, "scores", "hIoU")
    TrainingLog(tmp_path, 2, 2).add(3, "training", {"loss": 7.0})
    assert logged(tmp_path) == [1.0, 2.0, 7.0]


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    log = TrainingLog(tmp_path, 0, 0)
    (tmp_path / LOG).unlink()
    (tmp_path / LOG).symlink_to("/dev/full")
    with pytest.raises(InputError, match="cannot write .*train.jsonl .No space left on device.; the last save is"):
        log.add(1, "training", {"loss": 1.0})


def test_curves_have_a_panel_for_each_kind_of_number(tmp_path):
    lines = [{"iteration": 5, "training": {"loss": 3.0, "decode.loss_mask": 2.0, "rate": 1e-3, "seconds": 0.1}},
             {"iteration": 10, "training": {"loss": 2.0, "rate": 1e-4}},
             {"iteration": 10, "scores": {"mIoU": 20.0, "hIoU": None}}]  # fmt: skip
    panels = panels_of(lines)
    assert panels == {
        "losses": {"loss": [(5, 3.0), (10, 2.0)], "decode.loss_mask": [(5, 2.0)]},
        "learning rate": {"rate": [(5, 1e-3), (10, 1e-4)]},
        "scores on the evaluation split, %": {"mIoU": [(10, 20.0)]},
    }
    assert write_curves(tmp_path / LOG, tmp_path / "curves.png") is None and not list(tmp_path.iterdir())


def one_rank(ranks, plan, folder, batch, accumulation):
    torch.set_num_threads(1)
    run = new_run(plan, folder, iterations=3, ranks=ranks, batch=batch, accumulation=accumulation)
    train(run, stream(run), lambda: SCORES if ranks.is_main else None)
    np.savez(folder / f"{ranks.rank}.npz", **{name: value.numpy() for name, value in run.head.trained().items()})


@pytest.mark.parametrize("head", tiny_training.OPTIONS)
def test_two_ranks_train_as_one_with_twice_the_batch(head, monkeypatch, tmp_path):
    plan = planned(monkeypatch, head)
    for world, batch, accumulation in ((1, 4, 1), (2, 2, 1), (2, 1, 2)):
        folder = tmp_path / f"{world}{accumulation}"
        folder.mkdir()
        ranks_helper.finish(ranks_helper.start(world, one_rank, plan, folder, batch, accumulation))
    for name in ("loss", "gradient_norm"):
        one, two, accumulated = (logged(tmp_path / folder, name=name) for folder in ("11", "21", "22"))
        np.testing.assert_allclose(two, one, rtol=1e-5)
        assert np.isfinite(accumulated).all() and len(accumulated) == 3
    for folder in ("21", "22"):
        first, second = (np.load(tmp_path / folder / f"{rank}.npz") for rank in (0, 1))
        assert all((first[name] == second[name]).all() for name in first)


def on_an_accelerator(ranks, plan, folder):
    run = new_run(plan, folder, ranks=ranks)
    devices = {parameter.device.type for parameter in run.model.parameters()}
    (folder / f"{ranks.rank}.txt").write_text(f"{type(run.model).__name__} {devices}")


@pytest.mark.parametrize("head", PROMPTED)
def test_ranks_on_accelerators_wrap_a_model_of_one_device_type(head, monkeypatch, tmp_path):
    """The device "meta" stands for an accelerator; its tensors hold nothing that could be encoded, read or sent."""
    plan = planned(monkeypatch, head)
    monkeypatch.setattr(DenseCLIP, "fingerprint", "tiny")
    monkeypatch.setattr("heads.head.clip_fingerprint", lambda _: "tiny")
    monkeypatch.setattr(Training, "save", lambda _: None)
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", partial(DistributedDataParallel, init_sync=False))
    new_run(plan, tmp_path)  # leaves embeddings of class names on disk
    plan = replace(plan, device=torch.device("meta"))
    ranks_helper.finish(ranks_helper.start(2, on_an_accelerator, plan, tmp_path))
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["DistributedDataParallel {'meta'}"] * 2


def dropping(ranks, plan, folder):
    torch.set_num_threads(1)
    run = new_run(plan, folder, ranks=ranks)
    batch = next(stream(new_run(plan, folder / f"{ranks.rank}")))
    _, outcome = step(run, iter([batch]))
    (folder / f"{ranks.rank}.txt").write_text(str(float(sum(outcome.losses.values()))))


def test_ranks_have_dropout_of_their_own(monkeypatch, tmp_path):
    """On the same images, and the same again in another run."""
    plan, found = planned(monkeypatch, dropout=0.5), []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        ranks_helper.finish(ranks_helper.start(2, dropping, plan, tmp_path / name))
        found.append([(tmp_path / name / f"{rank}.txt").read_text() for rank in (0, 1)])
    assert found[0] == found[1] and found[0][0] != found[0][1]
