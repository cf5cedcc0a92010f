"""Cityscapes val, 19 classes."""

from configs.base import EvalConfig, in_one_word, read_words
from datasets.label_map import CITYSCAPES as COLOURS
from datasets.segmentation import SegmentationData, Split

CITYSCAPES = SegmentationData(
    name="cityscapes",
    folder="cityscapes",
    classes=read_words("cityscapes"),
    splits={
        "val": Split(
            images="leftImg8bit/val/{}_leftImg8bit.png",  # the stem holds the city's folder
            labels="gtFine/val/{}_gtFine_labelTrainIds.png",
            count=(500,),
            prepare=("cityscapes",),
        ),
        "train": Split(
            images="leftImg8bit/train/{}_leftImg8bit.png",
            labels="gtFine/train/{}_gtFine_labelTrainIds.png",
            count=(2975,),
            prepare=("cityscapes",),
        ),
    },
    palette=COLOURS,
)
config = EvalConfig(data=CITYSCAPES, prompts=in_one_word("traffic light, traffic sign"), short_side=448, crop=224)
