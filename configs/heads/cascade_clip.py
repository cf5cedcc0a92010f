"""Cascade-CLIP's published runs on four GPUs with four images each; and one on the embedded scenes.

Transductive runs need --init-from, the checkpoint of the inductive one. Fully supervised runs are not among the
published configurations: their settings are those of the inductive ones.

Pascal Context: the published unseen classes are given by indices that mean other classes in the order of the dataset
than in the paper. "cascade-clip" are those that the published run leaves out; with --set unseen=otseg the split of the
paper, and of others, is trained.
"""

from dataclasses import replace

from configs.heads._shared import COCO_STUFF164K, CONTEXT59, SCENES, VOC20
from configs.published_protocols import PublishedProtocol
from configs.training import in_all_settings

ON_VOC20 = in_all_settings("cascade_clip_voc20", replace(VOC20, head="cascade_clip"))
TRANSDUCTIVE = ON_VOC20["cascade_clip_voc20_transductive"]
OPTIONS_ON_COCO = {**COCO_STUFF164K.options, "prompts": 50}
OPTIONS_ON_SCENES = {**SCENES.options, "levels": (1, 2, 3, 4), "group_size": 2}

runs = {
    **ON_VOC20,
    "cascade_clip_voc20_transductive": replace(TRANSDUCTIVE, batch=8, published_batch=32),
    **in_all_settings("cascade_clip_context59", replace(CONTEXT59, head="cascade_clip", unseen="cascade-clip")),
    **in_all_settings(
        "cascade_clip_coco_stuff164k", replace(COCO_STUFF164K, head="cascade_clip", options=OPTIONS_ON_COCO)
    ),
    **in_all_settings("cascade_clip_scenes", replace(SCENES, head="cascade_clip", options=OPTIONS_ON_SCENES)),
}
published = {
    "coco_stuff164k": PublishedProtocol(
        source="HVision-NKU/Cascade-CLIP dadf40d: configs/cross_dataset",
        benchmarks={"voc20": {"templates": ("a photo of a {}",)}, "context59": {}},
    )
}
