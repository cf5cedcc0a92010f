"""COCO val2017, the 80 thing classes and background."""

from configs.base import EvalConfig, read_words
from datasets.label_map import COCO_STUFF
from datasets.segmentation import SegmentationData, Split

COCO_OBJECT = SegmentationData(
    name="coco_object",
    folder="coco_object",
    classes=("background", *read_words("coco_stuff164k")[:80]),  # things come before stuff there
    splits={
        "val": Split(
            images="images/val2017/{}.jpg",
            labels="annotations/val2017/{}_instanceTrainIds.png",
            count=(5000,),
            prepare=("coco_object",),
        )
    },
    void=None,
    palette=((0, 0, 0), *COCO_STUFF[:80]),
)
config = EvalConfig(
    data=COCO_OBJECT,
    prompts={
        "background": "sky; wall; tree; wood; grass; road; sea; river; mountain; sands; desk; bed; building; cloud; "
        "floor; hill; rail"
    },
    background="vocabulary",
    threshold=0.25,
)
