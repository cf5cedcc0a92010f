"""ADE20K full val, its 847 most frequent classes; all other pixels are not scored."""

from configs.base import EvalConfig, read_words
from datasets.segmentation import SegmentationData, Split

ADE847 = SegmentationData(
    name="ade847",
    folder="ADE20K_2021_17_01",
    classes=read_words("ade847"),
    splits={
        "val": Split(
            images="images_detectron2/validation/{}.jpg",
            labels="annotations_detectron2/validation/{}.tif",
            listing="validation.txt",
            count=(2000,),
            prepare=("ade847",),
        )
    },
    void=65535,
)
config = EvalConfig(data=ADE847, short_side=448)
