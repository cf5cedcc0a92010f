"""CAT-Seg's published runs on four GPUs with one image each; and one on the embedded scenes.

The published runs train with the labels of all 171 classes of COCO-Stuff, and are evaluated on other datasets. On the
scenes, windows and views are those of the published runs at a sixth of their size.
"""

from dataclasses import replace

from configs.cfg_coco_stuff164k import config as coco_stuff164k
from configs.heads._scenes import SCENES as scenes
from configs.training import TrainConfig
from datasets.augment import Augment

COCO_STUFF164K = TrainConfig(
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
LARGE = {"clip_size": 336, "guidance_blocks": (7, 15)}
COCO_STUFF164K_LARGE = replace(COCO_STUFF164K, clip="ViT-L-14-336:openai", options=LARGE)
BACKBONES = {"clip.": 0.01, "guidance_backbone.": 0.01}
R101 = replace(COCO_STUFF164K, options={"guidance": "resnet101"}, rate_factors=BACKBONES)
SWIN_B = replace(COCO_STUFF164K_LARGE, options={"guidance": "swin_base", "clip_size": 336}, rate_factors=BACKBONES)

SCENES = replace(
    scenes,
    head="cat_seg",
    options={
        "image_size": 64,
        "short_side": 107,
        "square": 107,
        "crop": 64,
        "stride": 43,
        "templates": scenes.options["templates"][:1],
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
