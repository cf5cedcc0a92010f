"""Pascal Context val, 59 classes; background pixels are not scored."""

from configs.base import EvalConfig, read_words
from datasets.label_map import ADE20K
from datasets.segmentation import SegmentationData, Split

CONTEXT59 = SegmentationData(
    name="context59",
    folder="VOCdevkit/VOC2010",
    classes=read_words("context59"),
    splits={
        "val": Split(
            images="JPEGImages/{}.jpg",
            labels="SegmentationClassContext/{}.png",
            listing="ImageSets/SegmentationContext/val.txt",
            count=(5105, 5104),  # one image less in some published lists
            prepare=("context",),
        ),
        "train": Split(
            images="JPEGImages/{}.jpg",
            labels="SegmentationClassContext/{}.png",
            listing="ImageSets/SegmentationContext/train.txt",
            count=(4996, 4998),
            prepare=("context",),
        ),
    },
    zero_is_void=True,
    palette=ADE20K[1:60],
    unseen={
        # OTSeg's ten are the standard ones; Cascade-CLIP's indices, read against its own class order, mean another ten.
        "otseg": ("cow", "motorbike", "sofa", "cat", "boat", "fence", "bird", "tvmonitor", "keyboard", "aeroplane"),
        "cascade-clip": (
            *("aeroplane", "bed", "bedclothes", "boat", "bottle", "car", "cloth", "cow", "keyboard", "plate"),
        ),
    },
)
config = EvalConfig(data=CONTEXT59)
