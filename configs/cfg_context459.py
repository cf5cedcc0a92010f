"""Pascal Context val, all 459 classes."""

from configs.base import EvalConfig
from configs.class_file import read_words
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
            count=(5104, 5105),
            prepare="context459",
        ),
    },
    void=65535,  # pixels without a class, should a label map hold any
    source="get Pascal Context as for context59; unpack trainval.tar.gz of cs.stanford.edu/~roozbeh/pascal-context in "
    "VOCdevkit/VOC2010, below the data root; run python -m datasets.prepare context",
)
config = EvalConfig(data=CONTEXT459, short_side=448)
