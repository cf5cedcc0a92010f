"""A small run on the embedded scenes and CLIP, for minutes on one processor; all heads start from it.

Scenes are magnified by 1.5, because the patches of the embedded CLIP are large compared with their parts. With so few
iterations, every other change of an image costs more than it teaches: crops are only flipped. Scenes are kept in the
data root when they are first generated. The best checkpoint is chosen on other scenes than those of the benchmark.
"""

from dataclasses import replace

from configs.cfg_scenes import config as scenes
from configs.training import TrainConfig
from datasets.augment import Augment
from datasets.scenes.dataset import SyntheticScenes
from proxyclip.loading import embedded

SCENES = TrainConfig(
    benchmark=replace(scenes, data=SyntheticScenes(store=True)),
    head="zegclip",
    setting="inductive",
    unseen="scenes",
    options={
        "image_size": 64,
        "short_side": 192,
        "crop": 64,
        "stride": 32,
        "prompts": 10,
        "decoder_heads": 4,
        "templates": embedded().options["templates"],
    },
    clip="mini",
    evaluation_split="tune",
    augment=Augment(scale=(768, 192), ratio=(1.0, 1.0), distort=False),
    batch=16,
    published_batch=None,
    iterations=1500,
    rate=2e-3,
    warmup=100,
    evaluate_every=0,
    save_every=500,
)
