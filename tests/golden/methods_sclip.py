"""Reference cases of SCLIP: its attention, the tower, and whole inferences."""

import torch
import torch.nn.functional as F
from golden import dense_models as models
from golden.cases import Case
from golden.heads_models import compare
from torch.nn.functional import scaled_dot_product_attention as attend

from proxyclip.backbones.layers import heads, join, run_block, run_network
from proxyclip.methods.sclip import correlative_attention


def check_attention(case: Case) -> None:
    block, computed = models.attention(case), {}
    query, key, value = heads(block, case.tensors["x"])
    for name, mix in (("csa", correlative_attention), ("plain", attend)):
        computed[f"{name}.attention_head0"] = models.head0(mix, query, key)
        computed[f"{name}.output"] = join(block, mix(query, key, value))
    compare(case, computed)


def check_tower(case: Case) -> None:
    clip, values = models.clip(case), case.settings["values"]
    images = models.images(case)
    grid, tokens, block = clip.grid(images), clip.before_last_block(images), clip.blocks[-1]
    assert list(grid) == case.settings["hyperparameters"]["grid"]
    query, key, value = heads(block, tokens)
    weights = models.head0(correlative_attention, query, key)
    expected = torch.tensor([values["attention_row_sum_min"], values["attention_row_sum_max"]])
    torch.testing.assert_close(torch.stack(weights.sum(2).aminmax()), expected, atol=1e-5, rtol=0)
    after = run_network(block, tokens + join(block, correlative_attention(query, key, value)))
    patches = models.patches("sclip", clip, images)  # (B, N, E)
    embeddings = torch.cat([clip.finish(after[:, :1]), patches], dim=1)  # (B, T, E)
    computed = {
        "pos_embed_used": clip.position_table(*grid),
        "tokens_before_last_block": tokens,
        "attention_head0": weights,
        "embeddings": embeddings,
        "patch_embeddings_normalised": F.normalize(patches, dim=2),
        "embeddings_no_csa": clip.finish(run_block(block, tokens)),
        "image_embedding": embeddings[:, 0],
    }
    compare(case, computed)


def check_inference(case: Case) -> None:
    """Windows are not padded. The published code leaves PAMR out for whole images without saying so; here, as for
    windows, it runs where it is asked for."""
    compare(case, models.inference(case, "sclip", multiple=1))


KINDS = {
    "sclip_attn": check_attention,
    "sclip_tower": check_tower,
    "sclip_slide": check_inference,
    "sclip_whole": check_inference,
}
