"""ZegCLIP's published runs on four GPUs with four images each; and one on the embedded scenes."""

from dataclasses import replace

from configs.cfg_coco_stuff164k import config as coco_stuff164k
from configs.cfg_context59 import config as context59
from configs.cfg_voc20 import config as voc20
from configs.heads._scenes import SCENES as scenes
from configs.heads._templates import FIFTEEN
from configs.training import TrainConfig

VOC20 = TrainConfig(
    benchmark=voc20,
    head="zegclip",
    setting="inductive",
    unseen="zegclip",
    options={"prompts": 10},
    iterations=20_000,
    evaluate_every=2000,
)
CONTEXT59 = TrainConfig(  # not among the published configurations: as Cascade-CLIP's, which builds on ZegCLIP
    benchmark=context59,
    head="zegclip",
    setting="inductive",
    unseen="otseg",
    options={"prompts": 35, "templates": FIFTEEN},
    iterations=40_000,
    evaluate_every=4000,
)
COCO_STUFF164K = TrainConfig(
    benchmark=coco_stuff164k,
    head="zegclip",
    setting="inductive",
    unseen="zegclip",
    options={"prompts": 100, "templates": FIFTEEN},
    iterations=80_000,
    evaluate_every=8000,
)
SCENES = replace(scenes, head="zegclip")
