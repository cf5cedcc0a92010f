"""What the runs of several heads share: those of ZegCLIP, prompts, and a small run on the embedded scenes and CLIP."""

from dataclasses import replace

from configs.cfg_coco_stuff164k import config as coco_stuff164k
from configs.cfg_context59 import config as context59
from configs.cfg_scenes import config as scenes
from configs.cfg_voc20 import config as voc20
from configs.training import TrainConfig
from datasets.augment import Augment
from datasets.scenes.dataset import SyntheticScenes
from proxyclip.loading import embedded

FIFTEEN = (  # templates, for each class name in place of {}; others are the defaults of the heads
    *("a photo of a {}.", "a photo of a small {}.", "a photo of a medium {}.", "a photo of a large {}."),
    *("This is a photo of a {}.", "This is a photo of a small {}."),
    *("This is a photo of a medium {}.", "This is a photo of a large {}."),
    *("a {} in the scene.", "a photo of a {} in the scene.", "There is a {} in the scene."),
    *("There is the {} in the scene.", "This is a {} in the scene.", "This is the {} in the scene."),
    "This is one {} in the scene.",
)

VOC20 = TrainConfig(
    benchmark=voc20,
    head="zegclip",
    setting="inductive",
    unseen="zegclip",
    options={"prompts": 10},
    iterations=20_000,
    evaluate_every=2000,
)
CONTEXT59 = replace(  # not among ZegCLIP's published configurations: as Cascade-CLIP's, which builds on it
    VOC20,
    benchmark=context59,
    unseen="otseg",
    options={"prompts": 35, "templates": FIFTEEN},
    iterations=40_000,
    evaluate_every=4000,
)
COCO_STUFF164K = replace(
    VOC20,
    benchmark=coco_stuff164k,
    options={"prompts": 100, "templates": FIFTEEN},
    iterations=80_000,
    evaluate_every=8000,
)

# Minutes on one processor. Scenes are magnified by 1.5, because the patches of the embedded CLIP are large compared
# with their parts. With so few iterations, every other change of an image costs more than it teaches: crops are only
# flipped. Scenes are kept in the data root when they are first generated. The best checkpoint is chosen on other scenes
# than those of the benchmark.
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
