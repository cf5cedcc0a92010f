"""Reference cases of GEM: its attention, one block, and both streams from images to scores.

`depth` n of the published code is about the last n - 1 blocks. Tokens of the first two kinds are stored (T, B, D).
"""

from types import SimpleNamespace

import torch.nn.functional as F
from golden import dense_models as models
from golden.cases import Case
from golden.heads_models import compare
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attend

from proxyclip.backbones.checkpoints import import_library
from proxyclip.backbones.layers import heads, join, run_block
from proxyclip.methods.gem import GEM, Options, self_self_attention, sharpness


def check_attention(case: Case) -> None:
    given, normed = case.settings["hyperparameters"], case.tensors["x"].transpose(0, 1)  # (B, T, D)
    block = models.attention(case, f"visual.transformer.resblocks.{given['block']}.attn.")
    query, key, value = heads(block, normed)
    own = sharpness(normed, query.shape[-1])  # (B, 1, 1, 1)
    computed = {"ordinary": join(block, attend(query, key, value)), "inverse_temperature": own.flatten()}
    for name, variant in given["variants"].items():
        factor = variant["ss_attn_temp"] or own
        mixed = self_self_attention(query, key, value, factor, variant["ss_attn_iter"])
        computed[f"gem_{name}"] = join(block, mixed)
    compare(case, {name: value.transpose(0, 1) if value.dim() == 3 else value for name, value in computed.items()})


def streams(block: nn.Module, options: Options, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Both streams after a block that tokens (B, T, D) enter: those of a model with no other block."""
    clip = SimpleNamespace(blocks=[block], embed=lambda crops, **more: crops)
    ((dense, entered),) = GEM.streams(SimpleNamespace(clip=clip, options=options), tokens)
    return dense, run_block(block, entered)


def check_block(case: Case) -> None:
    given, t = case.settings["hyperparameters"], case.tensors
    transformer = import_library("open_clip.transformer")
    block = transformer.ResidualAttentionBlock(given["width"], given["heads"], act_layer=transformer.QuickGELU)
    block.load_state_dict(models.weights(case, f"visual.transformer.resblocks.{given['block']}."))
    options = Options(iterations=given["ss_attn_iter"], sharpness=given["ss_attn_temp"])
    one, other = t["gem_in"].transpose(0, 1), t["ordinary_in"].transpose(0, 1)  # (B, T, D)
    dense, ordinary = streams(block.eval(), options, one)
    computed = {"single_gem": dense, "single_ordinary": ordinary}
    dense, ordinary = streams(block, options, other)
    computed |= {"pair_gem": one + (dense - other), "pair_ordinary": ordinary}
    compare(case, {name: value.transpose(0, 1) for name, value in computed.items()})


def check_chain(case: Case) -> None:
    clip, given = models.clip(case), case.settings["hyperparameters"]
    images, blocks = models.images(case), given["gem_blocks"]
    options = {"iterations": given["ss_attn_iter"], "sharpness": given["ss_attn_temp"], "blocks": len(blocks)}
    model = models.method("gem", clip, short_side=0, crop=0, multiple=1, **options)
    grid = clip.grid(images)
    assert list(grid) == given["grid"] and blocks == list(range(given["layers"]))[-len(blocks) :]
    dense, entered = zip(*model.streams(images), strict=True)
    ordinary = [*entered[1:], run_block(clip.blocks[-1], entered[-1])]
    computed = {"positions": clip.position_table(*grid, None, antialias=True)[None], "chain_in": entered[0]}
    computed |= {f"gem_after_{index}": tokens for index, tokens in zip(blocks, dense, strict=True)}
    computed |= {f"ordinary_after_{index}": tokens for index, tokens in zip(blocks, ordinary, strict=True)}
    computed["gem_tokens_out"] = tokens = clip.finish(dense[-1])
    computed["ordinary_tokens_out"] = clip.finish(ordinary[-1])
    patches = model.embed(images).flatten(2).mT
    assert patches.shape == tokens[:, 1:].shape and (patches - tokens[:, 1:]).abs().max() < 1e-6
    if "text" in case.tensors:
        computed["heat"] = heat = F.interpolate(
            model.window_scores(images, case.tensors["text"]), images.shape[-2:], mode="bilinear"
        )
        low, high = heat.aminmax(dim=-1)
        low, high = low.amin(2)[..., None, None], high.amax(2)[..., None, None]
        computed["heat_minmax"] = (heat - low) / (high - low)  # for pictures; labels do not need it
    compare(case, computed)


KINDS = {"gem_attention": check_attention, "gem_block": check_block, "gem_chain": check_chain}
