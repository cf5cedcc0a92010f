"""ADE20K val (SceneParse150), 150 classes; unlabelled pixels are not scored."""

from configs.base import EvalConfig, in_one_word, read_words
from datasets.label_map import ADE20K as COLOURS
from datasets.segmentation import SegmentationData, Split

ADE20K = SegmentationData(
    name="ade20k",
    folder="ade/ADEChallengeData2016",
    classes=read_words("ade20k"),
    splits={
        "val": Split(images="images/validation/{}.jpg", labels="annotations/validation/{}.png", count=(2000,)),
        "train": Split(images="images/training/{}.jpg", labels="annotations/training/{}.png", count=(20210,)),
    },
    zero_is_void=True,
    palette=COLOURS,
)
config = EvalConfig(
    data=ADE20K,
    prompts=in_one_word(
        "chest of drawers, pool table, screen door, coffee table, kitchen island, swivel chair, arcade machine, "
        "television receiver, dirt track, conveyer belt, swimming pool, trade name, traffic light, crt screen, "
        "bulletin board"
    ),
    short_side=448,
)
