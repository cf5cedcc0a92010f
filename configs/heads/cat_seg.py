"""CAT-Seg's published runs on four GPUs with one image each; and one on the embedded scenes.

The published runs train with the labels of all 171 classes of COCO-Stuff, and are evaluated on other datasets. `r101`
and `swin_b` are the first version of the paper, with image guidance from a backbone of its own. On ADE20K and Pascal
Context, and with the CLIPs ViT-H/14 and bigG/14, they are those of mmsegmentation's project, which evaluates windows of
the image alone; what else it trains with is as in the authors' runs. On the scenes, windows and views are those of the
published runs at a sixth of their size.
"""

from dataclasses import replace

from configs.cfg_ade20k import config as ade20k
from configs.cfg_coco_stuff164k import config as coco_stuff164k
from configs.cfg_context59 import config as context59
from configs.heads._shared import SCENES
from configs.published_protocols import PublishedProtocol
from configs.training import TrainConfig, in_all_settings
from datasets.augment import Augment
from proxyclip.text import default_templates

BASE = TrainConfig(
    benchmark=coco_stuff164k,
    head="cat_seg",
    setting="fully",
    iterations=80_000,
    batch=1,
    published_batch=4,
    augment=Augment(scale=(1333, 384), ratio=(1.0, 1.0), max_share=1.0, padding=(128 / 255,) * 3, antialias=True),
    schedule="cosine",
    min_rate=0.0,
    warmup=0,
    rate_factors={"clip.": 0.01},
    weight_decay=1e-4,
    decay_norms=False,
    clip_norm=0.01,
    loss="cross_entropy",
    evaluate_every=5000,
)
LARGE = replace(BASE, clip="ViT-L-14-336:openai", options={"clip_size": 336, "guidance_blocks": (7, 15)})
BACKBONES = {"clip.": 0.01, "guidance_backbone.": 0.01}
R101 = replace(BASE, options={"guidance": "resnet101"}, rate_factors=BACKBONES)
SWIN_B = replace(LARGE, options={"guidance": "swin_base", "clip_size": 336}, rate_factors=BACKBONES)
SLIDING = {"short_side": 512, "long_side": 2048, "square": 0, "stride": 384, "templates": default_templates()}
R101_ADE20K = replace(R101, benchmark=ade20k, options={**R101.options, **SLIDING})
R101_CONTEXT59 = replace(R101_ADE20K, benchmark=context59, batch=2, published_batch=8)
HUGE = replace(SWIN_B, clip="ViT-H-14:laion2b_s32b_b79k", options={**SWIN_B.options, **SLIDING})
GIANT = replace(HUGE, clip="ViT-bigG-14:laion2b_s39b_b160k")
ON_SCENES = replace(
    SCENES,
    head="cat_seg",
    options={
        "image_size": 64,
        "short_side": 107,
        "square": 107,
        "crop": 64,
        "stride": 43,
        "templates": SCENES.options["templates"][:1],
        "clip_size": 64,
        "guidance_blocks": (1, 3),
        "hidden": 32,
        "window": 4,
        "pad_len": 0,
        "image_guidance": 32,
        "text_guidance": 32,
        "guidance_features": (32, 16),
        "decoder": (16, 16),
        "decoder_guidance": (8, 4),
    },
    augment=Augment(scale=(512, 128), ratio=(0.5, 1.0), distort=False),
    iterations=1000,
    loss="cross_entropy",
    rate_factors={"clip.": 0.01},
    weight_decay=1e-4,
    decay_norms=False,
)

runs = {
    "cat_seg_coco_stuff164k_fully": BASE,
    "cat_seg_large_coco_stuff164k_fully": LARGE,
    "cat_seg_r101_coco_stuff164k_fully": R101,
    "cat_seg_r101_ade20k_fully": R101_ADE20K,
    "cat_seg_r101_context59_fully": R101_CONTEXT59,
    "cat_seg_swin_b_coco_stuff164k_fully": SWIN_B,
    "cat_seg_swin_b_huge_coco_stuff164k_fully": HUGE,
    "cat_seg_swin_b_giant_coco_stuff164k_fully": GIANT,
    **in_all_settings("cat_seg_scenes", ON_SCENES),
}
published = {
    "coco_stuff164k": PublishedProtocol(
        source="KU-CVLAB/CAT-Seg 6d3a188: README and configs",
        benchmarks={"ade847": {}, "context459": {}, "ade20k": {}, "context59": {}, "voc20": {}, "voc20b": {}},
    )
}
