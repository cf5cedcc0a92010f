"""The published heads' outputs, losses and gradients, case by case, within the tolerances of the reference data.

As for the engine: the shipped cases always run, $GOLDEN_DIR adds more, and some shipped cases leave out large tensors.
Every tensor of a case must be computed here, or be named below with the reason why it cannot be.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from golden import heads_cat_seg
from golden import heads_models as models
from golden.cases import SHIPPED, all_cases
from golden.heads_decoders import check_head
from golden.heads_segmentors import check_segmentor
from golden.models import IMAGENET
from torch import nn

from heads import cascade_clip
from heads.otseg import SinkhornAttention, iterations_needed, transport_plan
from heads.prompted_encoder import PromptedEncoder
from proxyclip.images import denormalise

ALL = all_cases("heads")
CASES = [case for case in ALL if "case" in case.settings]
FACTS = ("catseg_trainable", "class_splits", "official_configs")  # tables, not cases


def check_backbone(case):
    settings, t = case.settings, case.tensors
    model = models.load(models.build(case), models.published(case))
    visual, encoder = model.clip.visual, model.encoder
    bare = copy.deepcopy(visual)
    bare.ln_pre = nn.Identity()
    several = settings["hyperparameters"]["out_indices"]
    computed, own_prompts = {}, []
    for name in t:
        if not name.startswith("image_"):
            continue
        size, images = name.removeprefix("image_"), denormalise(t[name], *IMAGENET)
        steps = list(encoder.walk(visual, images))
        seen = settings["values"]["num_tokens_seen_by_last_block"][size]
        assert steps[-1].shape[1] + prompts_of_last_block(encoder, visual) == seen
        computed[f"tokens_before_ln_pre_{size}"] = encoder.embed(bare, images)
        for place, tokens in (("block0", steps[0]), ("last_block", steps[-1])):
            # What leaves a block in the places of its own prompts is part of no result, and is not computed here.
            name, others = f"{place}_out_{size}", tokens.shape[1] - 1
            own_prompts.append(name)
            if name in t:
                expected = torch.cat([t[name][:1], t[name][-others:]])  # (T, B, D)
                models.assert_close(case, name, tokens.transpose(0, 1), expected)
        if isinstance(model, cascade_clip.Head):
            encoded = encoder(visual, images, model.options.levels)
            features = [*model.features(encoded), encoded.patches]
        else:
            encoded = encoder(visual, images)
            features = [encoded.patches]
            if len(several) > 1:  # then the published encoder returns tokens as they leave the blocks
                grid = encoded.patches.shape[-2:]
                features = [steps[index][:, -grid.numel() :].mT.unflatten(2, grid) for index in several]
        computed |= {f"feature_{index}_{size}": feature for index, feature in enumerate(features)}
        computed[f"global_embedding_{size}"] = encoded.image
    models.compare(case, computed, left_out=tuple(own_prompts))


def prompts_of_last_block(encoder, visual) -> int:
    """Those that end with it, and are not among the tokens that leave it."""
    last = len(visual.transformer.resblocks) - 1 - encoder.first
    return 0 if encoder.keep or last >= len(encoder.prompts) else encoder.prompts.shape[1]


def check_position_table(case):
    """With patches, class token and norm out of the way, embedded tokens are the position table itself."""
    given, t = case.settings["hyperparameters"], case.tensors
    patch, width, side = given["patch_size"], given["width"], given["source_grid"] * given["patch_size"]
    shape = {"patch_size": patch, "width": width, "heads": 1, "layers": 1, "output_dim": 8, "input_resolution": side}
    visual = models.clip(shape).visual
    visual.positional_embedding.data = t["checkpoint.visual.positional_embedding"].float()
    visual.conv1.weight.data.zero_()
    visual.class_embedding.data.zero_()
    visual.ln_pre = nn.Identity()
    computed = {}
    for size in given["input_resolution"]:
        encoder = PromptedEncoder(visual, prompts=1, prompt_blocks=0, dropout=0.0, image_size=size)
        table = encoder.embed(visual, torch.zeros(1, 3, size, size))[0]  # (1 + h * w, D)
        computed[f"positional_embedding_grid{size // patch}_every4th_channel"] = table[:, ::4]
    models.compare(case, computed)


def check_sinkhorn(case):
    settings, t = case.settings, case.tensors
    given, facts = settings["hyperparameters"], settings["values"]
    stop = {"threshold": given["thresh"], "iterations": given["max_iter"]}
    computed = {}
    for index in [name.removeprefix("cost_") for name in t if name.startswith("cost_")]:
        cost, rows, columns = t[f"cost_{index}"].requires_grad_(), t[f"mu_{index}"], t[f"nu_{index}"]
        choices = stop | {"epsilon": facts[f"eps_{index}"]}
        assert iterations_needed(cost.detach(), rows, columns, **choices) == facts[f"iterations_{index}"]
        plan = transport_plan(cost, rows, columns, **choices)
        (cost[0].numel() * (plan * t[f"grad_weight_{index}"]).sum()).backward()
        computed |= {f"plan_{index}": plan, f"grad_cost_{index}": cost.grad}
        errors = (plan.sum(2) - rows).abs().max(), (plan.sum(1) - columns).abs().max()
        assert torch.stack(errors).tolist() == pytest.approx(facts[f"marginal_error_{index}"], abs=1e-6)
    models.compare(case, computed)


def check_sinkhorn_attention(case):
    settings, t = case.settings, case.tensors
    given, state = settings["hyperparameters"], models.published(case)
    attention = SinkhornAttention(given["dim"], dropout=0.0).train()  # the published iteration stops for all at once
    own = {"q": "query", "k": "key", "v": "value", "proj": "projection"}
    renamed = {".".join([own[part], kind]): value for (part, kind), value in split_names(state)}
    attention.load_state_dict(renamed)
    queries, memory = t["xq"].permute(2, 1, 0, 3), t["xk"]  # (B, K, P, E), (B, M, E)
    scores, mixed = attention(queries, memory)
    models.compare(case, {"out": mixed.permute(1, 2, 0, 3), "attn_save": scores})

    query, key = (F.normalize(part, dim=-1) for part in (attention.query(queries), attention.key(memory)))
    cost = 1 - torch.einsum("bkpe,bme->bkmp", query, key).flatten(0, 1)  # (B * K, M, P)
    uniform = (torch.full(cost.shape[:2], 1 / cost.shape[1]), torch.full(cost[:, 0].shape, 1 / cost.shape[2]))
    assert iterations_needed(cost, *uniform, epsilon=given["eps"]) == settings["values"]["iterations"]


def split_names(state):
    return [(name.split("."), value) for name, value in state.items()]


KINDS = {
    "vpt_backbone": check_backbone,
    "vpt_pos_embed_init": check_position_table,
    "otseg_sinkhorn": check_sinkhorn,
    "otseg_attention": check_sinkhorn_attention,
    "zegclip_head": check_head,
    "otseg_head": check_head,
    "cascade_head": check_head,
    "segmentor": check_segmentor,
    **heads_cat_seg.KINDS,
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    kinds = [kind for kind in KINDS if case.file.stem.startswith(kind)]
    assert kinds, f"{case.file.stem} is a case of unknown kind; known: {', '.join(KINDS)}"
    KINDS[kinds[0]](case, *([tmp_path] if kinds[0] == "segmentor" else []))


@pytest.mark.parametrize("case", [case for case in ALL if case.file.stem == "catseg_trainable"], ids=str)
def test_what_cat_seg_trains(case):
    heads_cat_seg.check_trained(case)


def test_every_file_is_a_case_or_a_known_table():
    assert {case.file.stem for case in ALL if case not in CASES} <= {*FACTS}


def test_kinds_of_cases_are_shipped():
    shipped = [file.stem for file in (SHIPPED / "heads").glob("*.json")]
    for kind in (
        "vpt_backbone",
        "zegclip_head",
        "otseg_sinkhorn",
        "otseg_attention",
        "segmentor",
        "catseg_aggregator",
        "class_splits",
    ):
        assert any(stem.startswith(kind) for stem in shipped), kind
