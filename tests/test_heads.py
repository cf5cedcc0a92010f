"""What holds for every head: shapes, independence of images, training of all its weights and of nothing else."""

import json

import pytest
import tiny_clip
import tiny_head
import torch
import torch.nn.functional as F

from heads.losses import VOID, mask_loss
from proxyclip.errors import InputError
from proxyclip.vocabulary import Vocabulary

ALL = pytest.mark.parametrize("name", tiny_head.HEADS)
NAMES = Vocabulary.parse(tiny_head.CLASSES)
ODD, EVEN, PORTRAIT = (24, 40), (32, 32), (64, 16)  # pixels: grids of 3 x 5, 4 x 4 and 8 x 2


def loss_of(model, images, labels):
    """The loss of one training step, with the same dropout every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        predictions = model(images, model.encode_classes(NAMES))
    return sum(sum(mask_loss(logits, labels).values()) for logits in predictions.values())


def labels_for(images):
    batch, _, height, width = images.shape
    return torch.randint(
        VOID, len(tiny_head.CLASSES), (batch, height, width), generator=torch.Generator().manual_seed(0)
    )


def gradients(model):
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@ALL
@pytest.mark.parametrize("size", [ODD, EVEN, PORTRAIT])
@torch.no_grad()
def test_scores_of_an_image_do_not_depend_on_the_others(name, size):
    model = tiny_head.head(name)
    images, text = tiny_head.images(3, *size), model.encode_classes(NAMES)
    grid = size[0] // 8, size[1] // 8
    predictions = model(images, text)
    assert {*predictions} == ({"decode", "score"} if name == "otseg" else {"decode"})
    assert all(logits.shape == (3, 4, *grid) for logits in predictions.values())
    scores = model.window_scores(images, text)
    assert scores.shape == (3, 4, *grid) and scores.dtype == torch.float32
    torch.testing.assert_close(scores, sum(predictions.values()) / len(predictions))
    assert scores.std(dim=(2, 3)).min() > 0 and scores.std(dim=0).min() > 0
    for index in range(3):
        torch.testing.assert_close(model.window_scores(images[index : index + 1], text)[0], scores[index])
    torch.testing.assert_close(model.window_scores(images.flip(0), text).flip(0), scores)


@ALL
@torch.no_grad()
def test_patches_keep_their_places(name):
    """A decoder has no notion of rows and columns: patches in another arrangement have the same scores there."""
    model = tiny_head.head(name)
    levels = len(getattr(model.options, "levels", ())) + 1
    generator = torch.Generator().manual_seed(0)
    features = [F.normalize(torch.randn(2, 16, 3, 5, generator=generator), dim=1) for _ in range(levels)]
    image = F.normalize(torch.randn(2, 16, generator=generator), dim=1)

    def scores(features):
        features = tuple(features) if levels > 1 else features[0]
        found = model.decode(features, image, model.encode_classes(NAMES))
        return model.combine(found if isinstance(found, dict) else {"decode": found})

    turned = scores([feature.mT for feature in features]).mT
    torch.testing.assert_close(turned, scores(features), rtol=1e-4, atol=1e-5)


@ALL
@pytest.mark.parametrize("prompt_blocks", [None, 2, 0, -1, -4])
def test_one_step_trains_all_weights_and_no_other(name, prompt_blocks):
    """DistributedDataParallel needs a gradient for every parameter that is trained."""
    if name == "cascade_clip" and prompt_blocks is not None and prompt_blocks < 1:
        with pytest.raises(InputError, match=f"prompt_blocks is {prompt_blocks}; this head needs prompts in several"):
            tiny_head.head(name, prompt_blocks=prompt_blocks)
        return
    model = tiny_head.head(name, prompt_blocks=prompt_blocks).train()
    images = tiny_head.images(2, *ODD)
    loss_of(model, images, labels_for(images)).backward()
    for parameter_name, parameter in model.named_parameters():
        trained = not parameter_name.startswith(("clip.", "level_"))
        assert parameter.requires_grad == trained == (parameter.grad is not None), parameter_name
        # Keys may move all by the same amount: a softmax over them does not change.
        if trained and not parameter_name.endswith("key.bias"):
            assert parameter.grad.isfinite().all() and parameter.grad.any(), parameter_name
    kept = {parameter_name for parameter_name in model.state_dict() if not parameter_name.startswith("clip.")}
    assert {*model.trained()} == kept
    assert {parameter_name for parameter_name, value in model.named_parameters() if value.requires_grad} <= kept


@ALL
def test_training_lowers_the_loss(name):
    model = tiny_head.head(name).train()
    images = tiny_head.images(2, *ODD)
    labels = (images.mean(1) > 0.5).long()
    optimiser = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=3e-3)
    losses = []
    for _ in range(12):
        losses.append(loss_of(model, images, labels))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.7 * losses[0]


@ALL
@torch.no_grad()
def test_every_weight_of_a_checkpoint_matters(name):
    """Nothing that is computed from a trained weight is kept when the weight changes."""
    model = tiny_head.head(name)
    images, text = tiny_head.images(2, *ODD), model.encode_classes(NAMES)
    before = model.window_scores(images, text)
    for weight, value in model.trained().items():
        if weight.endswith("key.bias") and "masks" not in weight and name != "otseg":
            continue
        kept = value.clone()
        value += 0.5 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        assert (model.window_scores(images, text) - before).abs().max() > 1e-6, weight
        value.copy_(kept)
    assert torch.equal(model.window_scores(images, text), before)


@ALL
def test_checkpointing_gives_the_same_gradients_with_less_memory(name):
    model = tiny_head.head(name).train()
    images = tiny_head.images(2, *EVEN)
    labels, outcomes = labels_for(images), []
    for checkpointing in (False, True):
        model.encoder.checkpointing = checkpointing
        model.zero_grad()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda value, kept=kept: kept.append(value.nbytes) or value, same
        ):
            loss = loss_of(model, images, labels)
        bytes_kept = sum(kept)
        loss.backward()
        outcomes.append((loss.item(), gradients(model), bytes_kept))
    (loss, plain, most), (again, checkpointed, least) = outcomes
    assert loss == again and least < 0.7 * most
    for parameter, gradient in plain.items():
        torch.testing.assert_close(checkpointed[parameter], gradient, rtol=1e-5, atol=1e-6, msg=parameter)


def same(value):
    return value


@ALL
@torch.no_grad()
def test_bfloat16_stays_near_float32(name):
    model = tiny_head.head(name)
    images, text = tiny_head.images(2, *ODD), model.encode_classes(NAMES)
    exact = model.window_scores(images, text)
    half = model.set_precision(torch.bfloat16).window_scores(images, text)
    assert half.dtype == torch.float32 and all(value.dtype == torch.float32 for value in model.trained().values())
    assert 0 < (half - exact).abs().max() < 0.05
    with torch.autocast("cpu", torch.bfloat16):  # of a caller: the precision of the model counts
        assert torch.equal(model.set_precision(torch.float32).window_scores(images, text), exact)


@torch.no_grad()
def test_reduced_products_of_the_caller_are_switched_off():
    """Records of scores say that TF32 is not used."""
    model, found = tiny_head.head("zegclip"), []
    model.logits = lambda images, text: found.append(torch.get_float32_matmul_precision()) or {"decode": images}
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        model.window_scores(tiny_head.images(), None)
        assert found == ["highest"] and torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@ALL
def test_training_with_autocast_stays_near_float32(name):
    model = tiny_head.head(name).train()
    images = tiny_head.images(2, *ODD)
    outcomes = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = loss_of(model, images, labels_for(images))
        loss.backward()
        outcomes.append((loss, gradients(model)))
    (exact, plain), (half, rounded) = outcomes
    assert half.dtype == torch.float32 and half != exact
    assert half.item() == pytest.approx(exact.item(), rel=0.02)
    for parameter in ("encoder.prompts", "encoder.projection.weight"):
        assert F.cosine_similarity(plain[parameter].flatten(), rounded[parameter].flatten(), dim=0) > 0.95


@ALL
def test_dropout_is_for_training_only(name):
    model = tiny_head.head(name, dropout=0.5)
    images, text = tiny_head.images(2, *ODD), model.encode_classes(NAMES)
    with torch.no_grad():
        assert torch.equal(model.window_scores(images, text), model.window_scores(images, text))
        model.train()
        assert not torch.equal(model.window_scores(images, text), model.window_scores(images, text))
    assert model.encode_classes(NAMES) is not None and not model.encode_classes(NAMES).requires_grad


@ALL
def test_settings_are_ready_for_json(name):
    model = tiny_head.head(name)
    settings = json.loads(json.dumps(model.settings()))
    assert settings["method"] == {"zegclip": "ZegCLIP", "otseg": "OTSeg", "cascade_clip": "Cascade-CLIP"}[name]
    assert settings["seen"] == ["sky", "car"] and settings["subtract"] == {"sky": 0.1, "car": 0.1}
    assert settings["templates"] == 2 and settings["clip"] == "tiny" and settings["precision"] == "float32"
    assert settings["crop"] == 32 and settings["stride"] == 16


def test_a_clip_of_another_shape():
    """Width, depth, patch and joint width are those of the CLIP at hand."""
    clip = tiny_clip.clip(vision={"layers": 3, "width": 48, "patch_size": 16}, embed_dim=24)
    model = tiny_head.head("zegclip", clip=clip)
    assert model.encoder.prompts.shape == (3, 3, 48)
    with torch.no_grad():
        scores = model.window_scores(tiny_head.images(2, 48, 32), model.encode_classes(NAMES))
    assert scores.shape == (2, 4, 3, 2)
