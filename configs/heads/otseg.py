"""OTSeg's published runs on four GPUs with four images each; and one on the embedded scenes.

Transductive runs need --init-from, the checkpoint of the inductive one.
"""

from dataclasses import replace

from configs.heads._shared import COCO_STUFF164K, CONTEXT59, SCENES, VOC20
from configs.published_protocols import PublishedProtocol
from configs.training import in_all_settings
from datasets.augment import Augment

SIX = (  # of the head's eight templates
    *("a photo of a {}.", "a portrait of a {}.", "a part of a {}."),
    *("a segment of a {}.", "a photo of small {}.", "a photo of medium {}."),
)
ON_CONTEXT59 = in_all_settings(
    "otseg_context59",
    replace(
        CONTEXT59,
        head="otseg",
        options={"prompts": 10, "image_size": 480, "short_side": 520, "crop": 480, "stride": 80},
        evaluate_every=10_000,
        augment=Augment(scale=(520, 520)),
    ),
)
TRANSDUCTIVE = ON_CONTEXT59["otseg_context59_transductive"]
ON_COCO = replace(COCO_STUFF164K, head="otseg", options={"prompts": 100}, evaluate_every=10_000)

runs = {
    **in_all_settings("otseg_voc20", replace(VOC20, head="otseg", options={"prompts": 10, "templates": SIX})),
    **ON_CONTEXT59,
    "otseg_context59_transductive": replace(TRANSDUCTIVE, options={**TRANSDUCTIVE.options, "crop": 420}),
    **in_all_settings("otseg_coco_stuff164k", ON_COCO),
    **in_all_settings("otseg_scenes", replace(SCENES, head="otseg")),
}
SOURCE = "cubeyoung/OTSeg 0801051: configs/cross_dataset"
published = {
    "coco_stuff164k": PublishedProtocol(
        source=SOURCE, benchmarks={"voc20": {"stride": 380}, "context59": {"short_side": 520}, "ade20k": {}}
    ),
    "context59": PublishedProtocol(
        source=SOURCE,
        everywhere={"short_side": 512, "crop": 480, "stride": 80},
        benchmarks={"voc20": {}, "coco_stuff164k": {}},
    ),
}
