"""CAT-Seg in the training loop: which weights of CLIP change, what follows from them, and what must not."""

import copy
from pathlib import Path

import pytest
import ranks_helper
import tiny_cat_seg
import tiny_clip
import torch
from tiny_training import CLASSES, logged, new_run, planned, recipe, stream

from heads import cat_seg
from heads.losses import cross_entropy_loss
from heads.training.loop import step, train
from heads.training.objective import trained_parameters
from heads.training.plan import open_start
from heads.training.run import STATE
from proxyclip.backbones.checkpoints import cache_folder
from proxyclip.errors import InputError
from proxyclip.text import encode_together
from proxyclip.vocabulary import Vocabulary

MODES = {"attention": {}, "full": {}, "prompt": {"prompts": 2}, "frozen": {}}
ALL = pytest.mark.parametrize("mode", MODES)
PUBLISHED = {"loss": "cross_entropy", "rate_factors": {"clip.": 0.01}, "weight_decay": 1e-4, "decay_norms": False}
IN_PROJ = ".attn.in_proj_weight"
LAST = "clip.model.visual.transformer.resblocks.2"


@pytest.fixture
def plan(monkeypatch):
    """The plan of a fine-tuning mode, on a CLIP of three blocks."""
    clip = tiny_clip.clip
    monkeypatch.setattr(tiny_clip, "clip", lambda **changes: clip(**{"vision": {"layers": 3}} | changes))

    def make(mode="attention", setting="inductive", **options):
        return planned(monkeypatch, "cat_seg", setting, finetune=mode, **MODES[mode], **options)

    return make


def published(mode="attention", **fields):
    """As published, where something of CLIP is trained; with a rate that shows."""
    factors = {} if mode in ("attention", "full") else {"rate_factors": {}}
    return recipe(**PUBLISHED | factors | fields)


def no_scores():
    return {"mIoU": 1.0, "hIoU": 1.0}


def blocks(head) -> set[str]:
    return {name for name in head.state_dict() if name.startswith("clip.") and "transformer.resblocks." in name}


@ALL
def test_exactly_the_weights_of_the_mode_change(mode, plan, tmp_path):
    run = new_run(plan(mode), tmp_path / "run", published(mode), iterations=3)
    before = copy.deepcopy(run.head.state_dict())
    train(run, stream(run), no_scores)
    after = run.head.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    own = {name for name in after if not name.startswith("clip.")}
    of_blocks = blocks(run.head)
    queries_and_values = {name for name in of_blocks if name.endswith(IN_PROJ)}
    assert len(of_blocks) == 4 * 12 and len(queries_and_values) == 4  # three of the image tower, one of the text tower
    expected = {"attention": queries_and_values, "full": of_blocks}.get(mode, set())
    assert moved == own | expected and run.head.tuned == expected and ("prompts" in own) == (mode == "prompt")
    for name in queries_and_values & moved:
        change = (after[name] - before[name]).unflatten(0, (3, -1)).flatten(1).any(1).tolist()
        last = name.startswith(LAST)  # whose values alone are used
        assert change == [not last, not last and mode == "full", True], name
    if mode == "prompt":  # the prompts of the last block take part in nothing
        assert (after["prompts"] - before["prompts"]).abs().amax((1, 2))[:2].min() > 1e-4


@ALL
def test_groups_of_the_optimiser(mode, plan, tmp_path):
    """A hundredth of the rate for CLIP; no decay of norms, nor of projections with keys in them."""
    run = new_run(plan(mode), tmp_path / "run", published(mode))
    names = {parameter: name for name, parameter in trained_parameters(run.head).items()}
    found = {names[one]: group for group in run.optimiser.param_groups for one in group["params"]}
    assert found.keys() == trained_parameters(run.head).keys()
    norms = {name for name, module in run.head.named_modules() if "Norm" in type(module).__name__}
    for name, group in found.items():
        of_clip, norm = name.startswith("clip."), name.rpartition(".")[0] in norms
        assert group["base"] == pytest.approx(1e-5 if of_clip else 1e-3), name
        assert group["weight_decay"] == (0 if norm or of_clip and mode == "attention" else 1e-4), name
    assert ("clip.model.transformer.resblocks.0.ln_1.weight" in found) == (mode == "full")
    assert found["aggregator.upsampling.0.first_norm.weight"]["weight_decay"] == 0


def test_one_step_is_that_of_all_weights_together(plan, tmp_path):
    """The loss of the head's own prediction; its gradients, without those of the keys, clipped with all others."""
    run = new_run(plan(), tmp_path / "run", published(clip_norm=0.01))
    run.head.train()
    twin = plan().build(seed=0).train()  # of the same seed
    images, labels = next(stream(run))
    text = twin.encode_classes(Vocabulary.parse(run.objective.text.names))
    assert text.requires_grad
    loss = cross_entropy_loss(twin(images, text)["decode"], labels)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in trained_parameters(twin).items()}
    numbers, _ = step(run, iter([(images, labels)]))
    assert numbers["decode.loss_cross_entropy"] == numbers["loss"] == pytest.approx(loss.item(), rel=1e-6)
    for name in run.head.tuned:
        queries, keys, values = gradients[name].chunk(3)
        assert values.any() and not keys.any() and bool(queries.any()) == (not name.startswith(LAST)), name
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()
    assert numbers["gradient_norm"] == pytest.approx(norm, rel=1e-5) and norm > 0.01
    for name, gradient in run.gradients().items():
        torch.testing.assert_close(gradient, gradients[name] * 0.01 / norm, atol=1e-9, rtol=1e-4)


@ALL
def test_an_evaluation_in_between_sees_the_text_tower_as_it_is(mode, plan, tmp_path):
    """Nothing that the next step changes is left on disk, where it would be of no more use."""
    run = new_run(plan(mode), tmp_path / "run", published(mode, rate=1e-1), iterations=3, evaluate_every=1)
    found, vocabulary = [], Vocabulary.parse(CLASSES)

    def evaluate():
        head = run.head
        with torch.no_grad():
            text = head.encode_classes(vocabulary)
            fresh = encode_together(head.clip, CLASSES, head.templates, False)
        torch.testing.assert_close(text, fresh, atol=1e-6, rtol=0)
        assert torch.equal(head.encode_classes(vocabulary), text) and not text.requires_grad
        found.append(text.clone())
        return no_scores()

    train(run, stream(run), evaluate)
    trains_text = mode in ("attention", "full")
    changes = [(one - other).abs().max() > 1e-5 for one, other in zip(found, found[1:], strict=False)]
    assert changes == [trains_text] * 2 and run.head.trains_text == trains_text
    assert list((cache_folder() / "text").glob("*")) == [] if trains_text else (cache_folder() / "text").exists()


@pytest.mark.parametrize("mode", ["full", "prompt"])
def test_a_resumed_run_has_the_losses_of_an_unbroken_one(mode, plan, tmp_path):
    """To the last bit, from the tuned weights; tests/test_training_loop.py has "attention"."""

    def scores():
        return no_scores() | {"text": float(run.head.encode_classes(Vocabulary.parse(CLASSES)).sum())}

    common = {"iterations": 4, "evaluate_every": 1}
    run = whole = new_run(plan(mode), tmp_path / "whole", published(mode), **common)
    train(whole, stream(whole), scores)
    run = new_run(plan(mode), tmp_path / "broken", published(mode), **common)
    batches = stream(run)

    def ending():
        yield from (next(batches) for _ in range(2))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, ending(), scores)
    run = new_run(plan(mode), tmp_path / "broken", published(mode), resume=True, **common)
    assert run.progress.iteration == 2 and run.head.clip_fingerprint == whole.head.clip_fingerprint
    train(run, stream(run), scores)
    folders = tmp_path / "broken", tmp_path / "whole"
    for group, name in (("training", "loss"), ("training", "gradient_norm"), ("scores", "text")):
        one, other = (logged(folder, group, name) for folder in folders)
        assert one == other and len({*one}) == (4 if group == "training" or mode == "full" else 1)
    one, other = (torch.load(folder / STATE, weights_only=True)["weights"] for folder in folders)
    assert one.keys() == other.keys() >= whole.head.tuned
    assert all(torch.equal(one[name], other[name]) for name in other)


def two_ranks(ranks, make_run, folder: Path):
    torch.set_num_threads(1)
    run = make_run(folder, batch=2, ranks=ranks)
    train(run, stream(run), no_scores)


@pytest.mark.parametrize(("mode", "void"), [("attention", "negative"), ("attention", "masked"), ("full", "negative")])
def test_two_processes_give_the_losses_of_one_with_twice_the_batch(mode, void, plan, tmp_path):
    settings = published(mode, void=void, clip_norm=0.01)

    def make_run(folder, **more):
        return new_run(plan(mode), folder, settings, iterations=3, **more)

    one = make_run(tmp_path / "one", batch=4)
    train(one, stream(one), no_scores)
    ranks_helper.finish(ranks_helper.start(2, two_ranks, make_run, tmp_path / "two"))
    for name in ("loss", "gradient_norm"):
        assert logged(tmp_path / "two", name=name) == pytest.approx(logged(tmp_path / "one", name=name), rel=1e-5)


@ALL
def test_checkpointing_changes_nothing_but_memory(mode, plan, tmp_path):
    runs = [new_run(plan(mode), tmp_path / f"{on}", published(mode, checkpointing=on)) for on in (False, True)]
    assert [run.head.aggregator.checkpointing for run in runs] == [False, True]
    for run in runs:
        run.head.train()
    first, second = (step(run, stream(run))[0] for run in runs)
    assert first["loss"] == second["loss"]
    one, other = (run.gradients() for run in runs)
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("mode", ["attention", "full"])
def test_a_run_starts_from_a_published_checkpoint(mode, plan, tmp_path):
    """With the weights of CLIP that are in it; keys and everything frozen have to be those of the CLIP in use."""
    chosen = plan(mode, "fully", hidden=32)
    made = chosen.build(seed=5)
    with torch.no_grad():
        for name in made.tuned:
            made.state_dict()[name].chunk(3)[2].add_(0.1)
    file = Path(tiny_cat_seg.save_official(tmp_path / "model_final.pth", made))
    run = new_run(chosen, tmp_path / "run", published(mode, setting="fully"), start=open_start(file, chosen, "fully"))
    assert all(torch.equal(run.head.trained()[name], value) for name, value in made.trained().items())
    assert run.head.clip_fingerprint == chosen.build(seed=5).clip_fingerprint
    with pytest.raises(InputError, match="hidden is 16, but .* was trained with 32"):
        open_start(file, plan(mode, "fully"), "fully")
    frozen = plan("frozen", "fully", hidden=32)
    with pytest.raises(InputError, match="holds another CLIP than tiny: .*in_proj_weight"):
        new_run(frozen, tmp_path / "other", published("frozen"), start=open_start(file, frozen, "fully"))


def test_only_a_new_run_loads_published_weights(plan, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(cat_seg.Head, "load_published", lambda head: loaded.append(head))
    run = new_run(plan("frozen"), tmp_path / "new", published("frozen"))
    assert loaded == [run.head]
    new_run(plan("frozen"), tmp_path / "new", published("frozen"), resume=True)
    start = open_start(tmp_path / "new", plan("frozen"), "inductive")
    new_run(plan("frozen"), tmp_path / "started", published("frozen"), start=start)
    assert len(loaded) == 1
