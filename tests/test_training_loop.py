"""The training loop: what an update is, what is kept, and what stops it. Tiny heads, on images in memory."""

import copy
import json
import math
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny_clip
import tiny_heads
import tiny_training
import torch
from tiny_training import CLASSES, PROMPTED, SEEN, UNSEEN, Images, logged, new_run, planned, recipe, stream

from heads.checkpoint import BEST, LAST, read_metadata
from heads.losses import mask_loss
from heads.training.log import LOG, TrainingLog, panels_of, read_log
from heads.training.loop import NotFinite, step, train
from heads.training.objective import UNLABELLED, trained_parameters
from heads.training.plan import open_start
from heads.training.run import STATE
from proxyclip.errors import InputError

SCORES = {"mIoU": 10.0, "hIoU": 20.0}


def weights(run) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trained_parameters(run.head).items()}


def gradients(run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.gradients().items()}


@pytest.mark.parametrize("setting", ["inductive", "transductive", "fully"])
@pytest.mark.parametrize("head", tiny_training.OPTIONS)
def test_every_head_trains_in_every_setting(head, setting, monkeypatch, tmp_path):
    """Everything that is to be trained gets a gradient and moves; nothing else does."""
    run = new_run(planned(monkeypatch, head, setting), tmp_path / "run", recipe(setting), iterations=3)
    before = copy.deepcopy(run.head.state_dict())
    train(run, stream(run, setting), lambda: SCORES)
    after, own = run.head.state_dict(), trained_parameters(run.head)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == set(own)
    assert [len(logged(tmp_path / "run", name=part)) for part in ("loss", "rate", "accuracy")] == [3, 3, 3]
    assert all(map(math.isfinite, logged(tmp_path / "run")))


def test_the_loss_decreases(monkeypatch, tmp_path):
    run = new_run(planned(monkeypatch, decoder_layers=2), tmp_path / "run", recipe(rate=3e-3), iterations=40)
    train(run, stream(run), lambda: SCORES)
    losses = logged(tmp_path / "run")
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_one_update_by_hand(monkeypatch, tmp_path):
    """The loss of the head's own predictions, its gradients, AdamW, and the rate of the schedule."""
    run = new_run(planned(monkeypatch), tmp_path / "run", warmup=2)
    run.progress.iteration = 1
    twin = copy.deepcopy(run.head)
    images, labels = next(stream(run))
    losses = mask_loss(twin(images, run.objective.text)["decode"], labels)
    sum(losses.values()).backward()
    rate = run.schedule.rate(1e-3, 1, 0.25)
    torch.optim.AdamW(trained_parameters(twin).values(), lr=rate, weight_decay=0.01).step()
    run.optimiser.param_groups[0]["lr"] = rate
    numbers, _ = step(run, stream(run))
    assert numbers["decode.loss_mask"] == pytest.approx(losses["loss_mask"].item(), rel=1e-6)
    assert numbers["loss"] == pytest.approx(sum(losses.values()).item(), rel=1e-6)
    norm = torch.stack([parameter.grad.norm() for parameter in trained_parameters(twin).values()]).norm()
    assert numbers["gradient_norm"] == pytest.approx(norm.item(), rel=1e-5)
    for name, value in trained_parameters(twin).items():
        torch.testing.assert_close(weights(run)[name], value.detach(), atol=1e-6, rtol=1e-5)


def test_rates_follow_the_schedule(monkeypatch, tmp_path):
    """Each group from its own base; the largest is logged."""
    factors = {"encoder.": 0.1}
    run = new_run(planned(monkeypatch), tmp_path / "run", recipe(rate_factors=factors), iterations=4, warmup=2)
    train(run, stream(run), lambda: SCORES)
    assert {group["lr"] for group in run.optimiser.param_groups} == {
        run.schedule.rate(base, 3, 3 / 4) for base in (1e-3, 1e-4)
    }
    expected = [run.schedule.rate(1e-3, iteration, iteration / 4) for iteration in range(4)]
    assert logged(tmp_path / "run", name="rate") == expected and expected[0] < expected[1] < expected[2] > expected[3]


def test_accumulated_gradients_are_the_mean_of_the_batches(monkeypatch, tmp_path):
    plan = planned(monkeypatch)
    run = new_run(plan, tmp_path / "run", batch=2, accumulation=3)
    single = new_run(plan, tmp_path / "single", batch=2)
    means, losses = {}, []
    batches = stream(single)
    for _ in range(3):
        single.head.zero_grad()
        images, labels = next(batches)
        found = single.objective(single.head, images, labels).losses
        sum(found.values()).backward()
        losses.append(sum(found.values()).item())
        means = {name: means.get(name, 0) + value / 3 for name, value in gradients(single).items()}
    numbers, _ = step(run, stream(run))
    assert run.images == 6 and numbers["loss"] == pytest.approx(sum(losses) / 3, rel=1e-6)
    for name, value in gradients(run).items():
        torch.testing.assert_close(value, means[name], atol=1e-6, rtol=1e-4)


def test_gradients_are_clipped_together(monkeypatch, tmp_path):
    plan = planned(monkeypatch)
    free, clipped = new_run(plan, tmp_path / "a"), new_run(plan, tmp_path / "b", recipe(clip_norm=0.5))
    numbers = [step(run, stream(run))[0] for run in (free, clipped)]
    assert numbers[0] == numbers[1] and numbers[0]["gradient_norm"] > 1  # the norm before clipping
    factor = 0.5 / numbers[0]["gradient_norm"]
    for name, value in gradients(clipped).items():
        torch.testing.assert_close(value, gradients(free)[name] * factor, atol=1e-7, rtol=1e-4)


def shuffled_unseen() -> dict[str, str]:
    return {"boat": "tree", "tree": "boat"}


@pytest.mark.parametrize("setting", ["inductive", "transductive"])
@pytest.mark.parametrize("head", tiny_training.OPTIONS)
def test_which_unseen_class_a_pixel_has_changes_nothing(head, setting, monkeypatch, tmp_path):
    """Neither samples nor losses nor gradients; in the fully supervised setting it does."""
    for kind, same in ((setting, True), ("fully", False)):
        found = []
        for relabel in ({}, shuffled_unseen()):
            run = new_run(planned(monkeypatch, head, kind), tmp_path / "run", recipe(kind))
            numbers, _ = step(run, stream(run, kind, Images(relabel=relabel)))
            found.append((numbers, gradients(run)))
        (first, own), (second, others) = found
        assert (first == second) == same
        assert all(torch.equal(own[name], others[name]) for name in own) == same


def test_pseudo_labels_are_those_of_the_model_s_own_prediction(monkeypatch, tmp_path):
    """Pixels of unseen classes get the best of the unseen classes, and the loss is that of these labels."""
    run = new_run(planned(monkeypatch, "otseg", "transductive"), tmp_path / "run", recipe("transductive"))
    images, labels = next(stream(run, "transductive"))
    assert (labels == UNLABELLED).any()
    outcome = run.objective(run.head, images, labels)
    predictions = run.head(images, run.objective.text)
    full = torch.nn.functional.interpolate(run.head.combine(predictions), labels.shape[1:], mode="bilinear")
    indices = torch.tensor([CLASSES.index(name) for name in UNSEEN])
    expected = torch.where(labels == UNLABELLED, indices[full[:, indices].argmax(1)], labels)
    assert torch.equal(outcome.labels, expected) and set(expected.unique().tolist()) > set(indices.tolist())
    for name, logits in predictions.items():
        for part, value in mask_loss(logits, expected).items():
            torch.testing.assert_close(outcome.losses[f"{name}.{part}"], value)


@pytest.mark.parametrize("head", tiny_training.OPTIONS)
def test_a_batch_without_a_label(head, monkeypatch, tmp_path):
    """Of unseen classes alone: the inductive loss is that of void pixels, and the update is finite."""
    run = new_run(planned(monkeypatch, head), tmp_path / "run", recipe())
    everywhere_unseen = Images(relabel=dict.fromkeys(CLASSES, "boat"))
    images, labels = next(stream(run, samples=everywhere_unseen))
    assert (labels < 0).all()
    numbers, _ = step(run, iter([(images, labels)]))
    assert numbers["loss"] > 0 and all(map(math.isfinite, numbers.values()))
    dice = [value for name, value in numbers.items() if name.endswith("dice")]
    assert dice and not any(dice)


def test_void_pixels_can_be_left_out(monkeypatch, tmp_path):
    plan = planned(monkeypatch)
    found = {}
    for void in ("negative", "masked"):
        run = new_run(plan, tmp_path / void, recipe(void=void))
        found[void] = step(run, stream(run))[0]["decode.loss_mask"]
    assert found["masked"] < found["negative"]


def poisoned(run, at: int, spoil):
    """The stream of a run, in which the images of one batch are spoilt."""
    for index, (images, labels) in enumerate(stream(run)):
        yield spoil(images) if index == at else images, labels


@pytest.mark.parametrize(("head", "spoil"), [
    ("zegclip", lambda images: images * math.nan),
    ("otseg", lambda images: images + math.inf),
])  # fmt: skip
def test_a_loss_that_is_not_finite_stops_the_run(head, spoil, monkeypatch, tmp_path):
    """It names the iteration and the parameters; the last save is intact, and the run can go on from it."""
    plan = planned(monkeypatch, head)
    run = new_run(plan, tmp_path / "run", iterations=6, save_every=2)
    with pytest.raises(NotFinite, match=r"iteration 4: .*loss is nan.*; gradients of encoder\.prompts, .* are not fin"):
        train(run, poisoned(run, 3, spoil), lambda: SCORES)
    assert all(value.isfinite().all() for value in weights(run).values())
    assert read_metadata(tmp_path / "run" / LAST).training["iteration"] == 2
    again = new_run(plan, tmp_path / "run", iterations=6, resume=True)
    assert again.progress.iteration == 2
    train(again, stream(again), lambda: SCORES)
    assert len(logged(tmp_path / "run")) == 6


def test_best_and_last_are_kept(monkeypatch, tmp_path):
    """Evaluated after iterations 2, 4 and 5; the best is chosen by the score of its setting."""
    for setting, choose in (("inductive", "hIoU"), ("fully", "mIoU")):
        scores = iter([{"mIoU": 9.0, "hIoU": 1.0}, {"mIoU": 1.0, "hIoU": 9.0}, {"mIoU": 5.0, "hIoU": 5.0}])
        run = new_run(planned(monkeypatch, setting=setting), tmp_path / setting, recipe(setting), 5, evaluate_every=2)
        modes = []
        train(run, stream(run, setting), lambda run=run, scores=scores, modes=modes: (
            modes.append(run.head.training), next(scores))[1])  # fmt: skip
        best, last = (read_metadata(tmp_path / setting / name).training for name in (BEST, LAST))
        assert best["iteration"] == {"hIoU": 4, "mIoU": 2}[choose] and best["scores"][choose] == 9
        assert last["iteration"] == 5 and modes == [False] * 3 and run.head.training
        assert logged(tmp_path / setting, "scores", choose)[-1] == 5
        assert best["setting"] == setting and best["dataset"] == "tiny"


def test_a_score_that_is_no_number_is_never_the_best(monkeypatch, tmp_path, capsys):
    """Neither before one that is, nor after it; a run that has only such scores has no best checkpoint."""
    plan, nan = planned(monkeypatch), math.nan
    for name, values in (("some", [nan, 3.0, nan, math.inf]), ("none", [nan] * 4)):
        run = new_run(plan, tmp_path / name, iterations=4, evaluate_every=1)
        scores = iter(values)
        train(run, stream(run), lambda scores=scores: SCORES | {"hIoU": next(scores)})
    assert capsys.readouterr().out.count("the best so far") == 1
    assert read_metadata(tmp_path / "some" / BEST).training["iteration"] == 2
    assert not (tmp_path / "none" / BEST).exists() and (tmp_path / "none" / LAST).exists()
    with pytest.raises(InputError, match="no hIoU is a number: .*/none has no best checkpoint, only last.safetensors"):
        run.check_best()


def test_scores_of_a_part_of_the_images_are_never_called_scores(monkeypatch, tmp_path, capsys):
    run = new_run(planned(monkeypatch), tmp_path / "run", iterations=3, evaluate_every=2, limit=5)
    train(run, stream(run), lambda: SCORES)
    assert "iteration 2, on 5 images: mIoU 10.00   hIoU 20.00, the best so far" in capsys.readouterr().out
    assert logged(tmp_path / "run", "scores_of_5_images", "hIoU") == [20.0, 20.0]
    facts = read_metadata(tmp_path / "run" / BEST).training
    assert facts["scores_of_5_images"] == SCORES and "scores" not in facts
    assert "scores of 5 images on the evaluation split, %" in panels_of(read_log(tmp_path / "run" / LOG))
    TrainingLog(tmp_path / "run", iteration=3, evaluated=1)
    assert not logged(tmp_path / "run", "scores_of_5_images", "hIoU")


@pytest.mark.parametrize("head", tiny_training.OPTIONS)
def test_a_resumed_run_has_the_losses_of_an_unbroken_one(head, monkeypatch, tmp_path):
    """To the last bit, with dropout, an evaluation in between, and a log line that spans the interruption."""
    plan = planned(monkeypatch, head, **({"dropout": 0.3} if head in PROMPTED else {}))
    common = {"log_every": 2, "save_every": 1, "evaluate_every": 3, "iterations": 8}

    def scores():
        return {"hIoU": float(torch.rand(()))}  # random numbers of its own

    whole = new_run(plan, tmp_path / "whole", **common)
    train(whole, stream(whole), scores)
    for stopped in (3, 5):
        run = new_run(plan, tmp_path / f"{stopped}", **common)
        first = stream(run)

        def ending(batches=first, stopped=stopped):
            for _ in range(stopped):
                yield next(batches)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(run, ending(), scores)
        torch.manual_seed(random.getrandbits(32))
        rest = new_run(plan, tmp_path / f"{stopped}", resume=True, **common)
        assert rest.progress.iteration == stopped
        train(rest, stream(rest), scores)
        for name in ("loss", "gradient_norm", "rate", "accuracy"):
            assert logged(tmp_path / f"{stopped}", name=name) == logged(tmp_path / "whole", name=name)
        states = [torch.load(tmp_path / name / STATE, weights_only=True) for name in (f"{stopped}", "whole")]
        assert all(torch.equal(states[0]["weights"][name], value) for name, value in states[1]["weights"].items())
        assert len(logged(tmp_path / f"{stopped}", "scores", "hIoU")) == 3


def test_a_line_of_the_log_is_the_mean_since_the_one_before(monkeypatch, tmp_path):
    plan = planned(monkeypatch)
    for every in (1, 3):
        run = new_run(plan, tmp_path / f"{every}", iterations=7, log_every=every)
        train(run, stream(run), lambda: SCORES)
    for name in ("loss", "decode.loss_dice", "gradient_norm"):
        each = logged(tmp_path / "1", name=name)
        means = [sum(each[:3]) / 3, sum(each[3:6]) / 3]
        assert logged(tmp_path / "3", name=name) == pytest.approx(means, rel=1e-12)
    assert logged(tmp_path / "3", name="accuracy") == logged(tmp_path / "1", name="accuracy")[2::3]


def test_an_evaluation_that_was_interrupted_is_made_up_for(monkeypatch, tmp_path):
    plan = planned(monkeypatch)
    for iterations, at in ((4, 2), (2, 2)):  # in between, and at the end
        folder = tmp_path / f"{iterations}"
        run = new_run(plan, folder, iterations=iterations, evaluate_every=2)
        with pytest.raises(KeyboardInterrupt):
            train(run, stream(run), killed)
        rest = new_run(plan, folder, iterations=iterations, evaluate_every=2, resume=True)
        assert rest.progress.iteration == at and rest.progress.evaluated == 0
        train(rest, stream(rest), lambda: SCORES)
        lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        assert [line["iteration"] for line in lines if "scores" in line] == list(range(2, iterations + 1, 2))


def test_scores_that_were_logged_but_not_saved_are_not_logged_twice(monkeypatch, tmp_path):
    plan = planned(monkeypatch)
    run = new_run(plan, tmp_path / "run", iterations=3, evaluate_every=2)
    run.save_weights = lambda name, _, save=run.save_weights: save(name, _) if name == LAST else killed()
    with pytest.raises(KeyboardInterrupt):
        train(run, stream(run), lambda: SCORES)
    assert len(logged(tmp_path / "run", "scores", "hIoU")) == 1
    rest = new_run(plan, tmp_path / "run", iterations=3, evaluate_every=2, resume=True)
    train(rest, stream(rest), lambda: SCORES)
    assert len(logged(tmp_path / "run", "scores", "hIoU")) == 2 and len(logged(tmp_path / "run")) == 3


def killed():
    raise KeyboardInterrupt


def test_dropout_depends_on_seed_iteration_and_rank(monkeypatch, tmp_path):
    """Not on what happened before."""
    plan, found = planned(monkeypatch, dropout=0.5), {}
    for seed, iteration, before in ((0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 1)):
        run = new_run(plan, tmp_path / "run")
        run.recipe, run.progress.iteration = replace(run.recipe, seed=seed), iteration
        torch.manual_seed(before)
        batch = next(stream(new_run(plan, tmp_path / "same")))
        found[seed, iteration, before] = step(run, iter([batch]))[0]["loss"]
    assert found[0, 0, 1] == found[0, 0, 2] and len(set(found.values())) == 3


def test_initial_weights_depend_on_the_seed(monkeypatch, tmp_path):
    plan = planned(monkeypatch, "cascade_clip")
    first, same, other = (new_run(plan, tmp_path / "run", recipe(seed=seed)).head.trained() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["encoder.prompts"], other["encoder.prompts"])
    assert not torch.equal(first["level_projections"], other["level_projections"])


@pytest.mark.parametrize("head", tiny_training.OPTIONS)
def test_bf16_is_close_to_float32_and_weights_stay_in_float32(head, monkeypatch, tmp_path):
    plan = planned(monkeypatch, head)
    full, half = new_run(plan, tmp_path / "a"), new_run(plan, tmp_path / "b")
    half.head.set_precision(torch.bfloat16)
    expected, found = (step(run, stream(run))[0]["loss"] for run in (full, half))
    assert found != expected and found == pytest.approx(expected, rel=0.02)
    assert all(value.dtype == torch.float32 for value in (*weights(half).values(), *gradients(half).values()))


def test_checkpointing_changes_nothing_but_memory(monkeypatch, tmp_path):
    plan = planned(monkeypatch, dropout=0.3)
    runs = [new_run(plan, tmp_path / f"{on}", recipe(checkpointing=on)) for on in (False, True)]
    assert [run.head.encoder.checkpointing for run in runs] == [False, True]
    first, second = (step(run, stream(run))[0] for run in runs)
    assert first["loss"] == second["loss"] and first["gradient_norm"] == pytest.approx(second["gradient_norm"])


def test_a_state_of_other_settings_or_another_head_is_refused(monkeypatch, tmp_path):
    run = new_run(planned(monkeypatch), tmp_path / "run")
    run.save()
    with pytest.raises(InputError, match="holds a run with seed 0, not 1: continue it with its own settings"):
        new_run(planned(monkeypatch), tmp_path / "run", recipe(seed=1), resume=True)
    with pytest.raises(InputError, match="does not match the model.s architecture: 4 missing"):
        new_run(planned(monkeypatch, "otseg"), tmp_path / "run", resume=True)
    state = torch.load(tmp_path / "run" / STATE, weights_only=True)
    torch.save(state | {"clip": "another"}, tmp_path / "run" / STATE)
    with pytest.raises(InputError, match="is of a run on another CLIP"):
        new_run(planned(monkeypatch), tmp_path / "run", resume=True)
    whole = (tmp_path / "run" / STATE).read_bytes()
    torch.save({"weights": {}}, tmp_path / "run" / STATE)
    with pytest.raises(InputError, match="is not the state of a training run"):
        new_run(planned(monkeypatch), tmp_path / "run", resume=True)
    (tmp_path / "run" / STATE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        new_run(planned(monkeypatch), tmp_path / "run", resume=True)


@pytest.mark.parametrize("head", PROMPTED)
def test_a_transductive_run_starts_from_a_published_checkpoint(head, monkeypatch, tmp_path):
    options = {"group_size": 1, "levels": (0, 1)} if head == "cascade_clip" else {}
    monkeypatch.setattr(tiny_clip, "clip", partial(tiny_clip.clip, vision={"layers": 3}))
    plan = planned(monkeypatch, head, "transductive", **options)
    published = plan.build(seed=5)
    counted = {"decode_head.loss_decode.criterion.empty_weight": torch.ones(len(SEEN) + 1)}
    file = Path(tiny_heads.save_official(tmp_path / "iter_20000.pth", published, **counted))
    run = new_run(plan, tmp_path / "run", recipe("transductive"), start=open_start(file, plan, "transductive"))
    assert all(torch.equal(run.head.trained()[name], value) for name, value in published.trained().items())
    others = planned(monkeypatch, head, "fully", **options)
    with pytest.raises(InputError, match="was trained with other classes than those given: 4, not 6, 6 of them seen"):
        open_start(file, others, "fully")


def test_the_label_of_unlabelled_pixels_is_that_of_the_datasets():
    from datasets import augment

    assert UNLABELLED == augment.UNLABELLED
    assert augment.LabelTable.transductive(CLASSES, SEEN).values.count(UNLABELLED) == len(UNSEEN)
