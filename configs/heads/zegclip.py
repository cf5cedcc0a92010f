"""ZegCLIP's published runs on four GPUs with four images each; and one on the embedded scenes.

Transductive runs need --init-from, the checkpoint of the inductive one.
"""

from configs.heads._shared import COCO_STUFF164K, CONTEXT59, SCENES, VOC20
from configs.published_protocols import PublishedProtocol
from configs.training import in_all_settings

runs = {
    **in_all_settings("zegclip_voc20", VOC20),
    **in_all_settings("zegclip_context59", CONTEXT59),
    **in_all_settings("zegclip_coco_stuff164k", COCO_STUFF164K),
    **in_all_settings("zegclip_scenes", SCENES),
}
published = {
    "coco_stuff164k": PublishedProtocol(
        source="ZiqinZhou66/ZegCLIP 9ba4bb5: configs/cross_dataset",
        benchmarks={
            "voc20": {"templates": ("a photo of a {}",)},
            "context60": {"background": "none", "threshold": None},  # "background" is a class like any other
        },
    )
}
