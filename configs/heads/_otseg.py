"""OTSeg's published runs on four GPUs with four images each; and one on the embedded scenes."""

from dataclasses import replace

from configs.cfg_coco_stuff164k import config as coco_stuff164k
from configs.cfg_context59 import config as context59
from configs.cfg_voc20 import config as voc20
from configs.heads._scenes import SCENES as scenes
from configs.heads._templates import SIX
from configs.training import TrainConfig
from datasets.augment import Augment

VOC20 = TrainConfig(
    benchmark=voc20,
    head="otseg",
    setting="inductive",
    unseen="zegclip",
    options={"prompts": 10, "templates": SIX},
    iterations=20_000,
    evaluate_every=2000,
)
CONTEXT59 = TrainConfig(
    benchmark=context59,
    head="otseg",
    setting="inductive",
    unseen="otseg",
    options={
        "prompts": 10,
        "image_size": 480,
        "short_side": 520,
        "crop": 480,
        "stride": 80,
    },
    iterations=40_000,
    evaluate_every=10_000,
    augment=Augment(scale=(520, 520)),
)
COCO_STUFF164K = TrainConfig(
    benchmark=coco_stuff164k,
    head="otseg",
    setting="inductive",
    unseen="zegclip",
    options={"prompts": 100},
    iterations=80_000,
    evaluate_every=10_000,
)
SCENES = replace(scenes, head="otseg")
