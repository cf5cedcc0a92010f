"""GLA-CLIP: its attention across windows, and the path from windows to patch embeddings."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from golden import dense_models as models
from golden.cases import Case
from golden.heads_models import compare
from torch import Tensor, nn

from proxyclip.methods.glaclip import Method, Options, proxy_anchors


def options(given: dict) -> Options:
    """The options that published hyper-parameters are."""
    flags = given["flags"]
    assert (given["temperature"], given["cutting_hp"]) == (1.0, 0.0)
    return Options(
        short_side=0,
        multiple=1,
        templates=("{}",),
        similarity=given["initial_crit_pos"],
        steps=given["mini_iters"] if "proxy_sim" in flags else 0,
        beta_growth=given["beta_alpha"],
        gamma_growth=float(given["gamma_alpha"]),
        row_mean="token_norm" in flags,
        fixed_beta=None if "dynamic_beta" in flags else given["fixed_beta"],
        fixed_gamma=None if "dynamic_gamma" in flags else given["fixed_gamma"],
    )


def check_attention(case: Case) -> None:
    given, t = case.settings["hyperparameters"], case.tensors
    chosen, windows, grid = options(given), given["windows"][0] * given["windows"][1], given["vfm_grid"]
    features = F.normalize(t["ex_feats_grid"].flatten(0, 1), dim=1)  # (W, C, h, w)
    features = features.transpose(0, 1).flatten(1)  # (C, n)
    values = t["v"].unflatten(0, (windows, -1)).mT.flatten(1, 2)  # (W, heads * d, tokens)
    values = F.interpolate(values.unflatten(2, given["token_size"]), grid, mode="bilinear")
    values = values.transpose(0, 1).flatten(1)  # (heads * d, n)
    bare = SimpleNamespace(options=chosen, clip=SimpleNamespace(project=lambda mixed: mixed))

    def mixed(values: Tensor) -> Tensor:
        parts = [embeddings for _, embeddings in Method.mixed(bare, features, values, windows)]
        return torch.cat(parts).unflatten(0, (windows, -1))  # (W, hw, ...)

    attention = mixed(torch.eye(features.shape[1]))
    anchors, count = proxy_anchors(features.T, features.T, features, chosen.similarity, chosen.steps)
    computed = {
        "attn": attention,
        "masked_logits_finite": attention > 0,
        "last_similarity": (anchors @ features)[None],
        "count": count[:, 0],
        "out": mixed(values).transpose(0, 1),
    }
    compare(case, computed)


class Given(nn.Module):
    """A VFM that gives the features of a case, window after window."""

    patch_size, name = 8, "given"

    def __init__(self, features: Tensor):
        super().__init__()
        self.waiting = features

    def forward(self, crops: Tensor) -> Tensor:
        found, self.waiting = self.waiting.tensor_split([len(crops)])
        return found


def check_tower(case: Case) -> None:
    clip, t = models.clip(case), case.tensors
    windows = models.images(case)
    model = Method(clip, Given(t["ex_feats"]), options(case.settings["hyperparameters"]))
    computed = {
        "last_block_ln1": clip.blocks[-1].ln_1(clip.before_last_block(windows)[:, 1:]),
        "tokens_out": model.embed(windows).flatten(2).mT,
    }
    compare(case, computed)


KINDS = {"gla": check_attention, "gla_tower": check_tower}
