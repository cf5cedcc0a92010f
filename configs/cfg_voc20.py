"""Pascal VOC 2012 val, 20 object classes; background pixels are not scored."""

from configs.base import EvalConfig, read_words
from datasets.segmentation import SegmentationData, Split

VOC20 = SegmentationData(
    name="voc20",
    folder="VOCdevkit/VOC2012",
    classes=read_words("voc20"),
    splits={
        "val": Split(
            images="JPEGImages/{}.jpg",
            labels="SegmentationClass/{}.png",
            listing="ImageSets/Segmentation/val.txt",
            count=(1449,),
        ),
        "train": Split(
            images="JPEGImages/{}.jpg",
            labels="SegmentationClassAug/{}.png",
            listing="ImageSets/Segmentation/trainaug.txt",
            count=(10582,),
            prepare=("voc_aug",),
        ),
    },
    zero_is_void=True,
    unseen={"zegclip": ("pottedplant", "sheep", "sofa", "train", "tvmonitor")},
)
config = EvalConfig(data=VOC20, prompts={"boat": "ship", "diningtable": "table"})
