"""Pascal Context val, all 459 classes."""

from configs.base import EvalConfig, read_words
from datasets.segmentation import SegmentationData, Split

CONTEXT459 = SegmentationData(
    name="context459",
    folder="VOCdevkit/VOC2010",
    classes=read_words("context459"),
    splits={
        "val": Split(
            images="JPEGImages/{}.jpg",
            labels="annotations_detectron2/pc459_val/{}.tif",
            listing="ImageSets/SegmentationContext/val.txt",
            count=(5105, 5104),  # one image less in some published lists
            prepare=("context", "context459"),
        )
    },
    void=65535,  # pixels without a class, should a label map hold any
)
config = EvalConfig(data=CONTEXT459, short_side=448)
