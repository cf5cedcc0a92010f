"""PEARL: its attention, its propagation of scores, and both in the whole path to labels."""

import torch
from golden import dense_models as models
from golden.cases import Case
from golden.heads_models import compare
from torch import Tensor

from proxyclip.backbones.checkpoints import import_library
from proxyclip.backbones.layers import heads, join, run_network
from proxyclip.labels import LabelRule, score_tiles
from proxyclip.methods.pearl import Method, Options, aligned, centred, rotation
from proxyclip.refine import Guide, tlp
from proxyclip.segmentor import Sample
from proxyclip.vocabulary import Vocabulary

NAMES = {"alpha_kk": "alpha", "polar_iters": "steps"}  # here, by their published names
ONE_IMAGE = {"short_side": 0, "multiple": 1, "templates": ("{}",)}


def of_method(given: dict) -> dict:
    """The options among published hyper-parameters."""
    found = {NAMES[name]: value for name, value in given.items() if name in NAMES}
    found |= {"class_token": not given["detach_cls"]} if "detach_cls" in given else {}
    return found | ({} if given.get("use_kk", True) else {"alpha": 0.0})


def attention(query: Tensor, key: Tensor, options: Options) -> dict[str, Tensor]:
    """(N, T, d) each -> the steps of the attention, by their names in the cases."""
    centred_query, centred_key = centred(query, key, options.class_token)
    covariance = centred_key.mT @ centred_query
    rows, columns = aligned(query, key, options)
    weights = (rows @ columns.mT * query.shape[-1] ** -0.5).softmax(-1)
    return {"M": covariance, "R": rotation(covariance, options.steps), "attn": weights}


def check_attention(case: Case) -> None:
    given, t, computed = case.settings["hyperparameters"], case.tensors, {}
    for variant, changes in given["variants"].items():
        found = attention(t["q"], t["k"], Options(**of_method(given["defaults"] | changes)))
        found["out"] = found["attn"] @ t["v"]
        computed |= {f"{name}_{variant}": value for name, value in found.items()}
    compare(case, computed)


def check_tower(case: Case) -> None:
    given, clip = case.settings["hyperparameters"], models.clip(case)
    image = models.images(case)
    model = Method(clip, None, Options(**ONE_IMAGE, **of_method(given)))
    tokens, block = clip.before_last_block(image), clip.blocks[-1]
    query, key, value = heads(block, tokens)
    computed = attention(query, key, model.options)
    mixed = join(block, computed["attn"] @ value)
    computed = {name: part.flatten(0, 1) for name, part in computed.items()}
    computed |= {"after_ln_pre": clip.embed(image), "last_block_ln1": block.ln_1(tokens), "attn_out": mixed}
    if given["arch"] == "reduced":
        patches = model.embed(image).flatten(2).mT
        computed["tokens_out"] = torch.cat([clip.finish(mixed[:, :1]), patches], dim=1)
    else:  # with residual and MLP, an ablation of the paper that the method does not offer
        computed["tokens_out"] = clip.finish(run_network(block, tokens + mixed))
    compare(case, computed)


class MeansOfBatch(tlp.Refinement):
    """As published: differences in grey are relative to their mean in all images of a batch, not in each one."""

    def __init__(self, options: tlp.Options, images: Tensor):
        super().__init__(options)
        greys = torch.stack([self.grey(image) for image in images])  # (B, h, w)
        self.means = {tuple(way.shape[1:]): way.diff(dim=2).abs().mean() for way in (greys, greys.mT)}

    def scale(self, grey: Tensor) -> Tensor:
        return self.means[tuple(grey.shape)]


def check_propagation(case: Case) -> None:
    given, t = case.settings["hyperparameters"], case.tensors
    names = {"grid": "grid", "tau_S": "tau", "diag_boost": "boost", "ke_img": "ke", "cg_iters": "steps"}
    options, text = tlp.Options(**{own: given[name] for name, own in names.items()}), t.get("text")
    images = models.images(case)
    refine = MeansOfBatch(options, images) if len(images) > 1 else tlp.Refinement(options)
    computed = {} if text is None else {"S": tlp.similarity(text, options)}
    trust = torch.zeros(1, 1, 1) if text is None else computed["S"].diagonal()[:, None, None]
    offset = sum(
        weight * mean for weight, mean in zip(tlp.GREY, import_library("open_clip").OPENAI_DATASET_MEAN, strict=True)
    )
    found = []
    for image, maps in zip(images, t["cosines"], strict=True):
        guide, small = Guide(image, None, given["queries"], text), refine.pool(maps)
        system, probabilities = refine.system(small, guide), small.softmax(0)
        refined = refine(maps.__getitem__, guide)
        found.append(
            {
                "probs": probabilities,
                "agree": tlp.agreement(probabilities, probabilities, trust)[None],
                "gray": refine.grey(image)[None] - offset,
                "w_horizontal": system.across[None],
                "w_vertical": system.down[None],
                "small_logits": small,
                "confidence": system.confidence[None],
                "rhs": system.confidence * small,
                "solution_1_step": system.solve(small, 1),
                "solution_5_steps": system.solve(small, 5),
                "solution": system.solve(small, options.steps),
                "output": torch.cat([refined(slice(0, 2)), refined(slice(2, None))]),
            }
        )
    compare(case, computed | {name: torch.stack([one[name] for one in found]) for name in found[0]})


def check_pipeline(case: Case) -> None:
    given, t, clip = case.settings["hyperparameters"], case.tensors, models.clip(case)
    image, text = models.images(case)[0], t["text"]
    cut = {"crop": given["slide_crop"], "stride": given["slide_stride"], "two_steps": not given["slide_crop"]}
    model = Method(clip, None, Options(**ONE_IMAGE, **cut, logit_scale=given["logit_scale"], **of_method(given))).eval()
    model.refinement = tlp.Refinement(tlp.Options(grid=given["grid"]))
    model.encode_classes = lambda vocabulary: text
    classes = ["; ".join(f"{i}" for i, owner in enumerate(given["query_idx"]) if owner == k) for k in range(3)]
    vocabulary = Vocabulary.parse(classes)
    assert list(vocabulary.class_of_query) == given["query_idx"]
    scores, size = model.image_scores(image, text), tuple(given["ori_shape"])
    rule = model.label_rule.with_threshold(given["prob_thd"])
    found = model.decide(scores, image, Sample(image, size), vocabulary, rule=rule, keep=range(3))
    probabilities = torch.stack([found.class_scores[index] for index in range(3)])

    def full_size(size) -> Tensor:
        maps = torch.empty(len(text), *size)
        for (rows, columns), chosen, part in score_tiles(scores, size, LabelRule()):
            maps[chosen, rows, columns] = part.transpose(0, 1)
        return maps[None]

    resized = full_size(size)
    guide = torch.nn.functional.interpolate(image[None], size, mode="bilinear")[0]
    refined = model.refinement(resized[0].__getitem__, Guide(guide, None, len(text), text))
    computed = {
        "stitched_cosines": full_size(tuple(image.shape[1:])),
        "resized_cosines": resized,
        "propagated_cosines": refined(slice(None))[None],
        "probabilities": probabilities / probabilities.sum(0),
        "label": found.labels,
    }
    compare(case, computed)


KINDS = {
    "pearl_attn": check_attention,
    "pearl_tower": check_tower,
    "pearl_tlp": check_propagation,
    "pearl_pipeline": check_pipeline,
}
