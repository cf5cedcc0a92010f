"""ADE20K val (SceneParse150), 150 classes; unlabelled pixels are not scored."""

from configs.base import EvalConfig
from configs.class_file import read_words
from datasets.palettes import ADE20K as COLOURS
from datasets.segmentation import SegmentationData, Split

ADE20K = SegmentationData(
    name="ade20k",
    folder="ade/ADEChallengeData2016",
    classes=read_words("ade20k"),
    splits={
        "val": Split(
            images="images/validation/{}.jpg",
            labels="annotations/validation/{}.png",
            count=(2000,),
        ),
        "train": Split(
            images="images/training/{}.jpg",
            labels="annotations/training/{}.png",
            count=(20210,),
        ),
    },
    zero_is_void=True,
    palette=COLOURS,
)
config = EvalConfig(
    data=ADE20K,
    prompts={  # the published runs write these in one word
        "chest of drawers": "chestofdrawers",
        "pool table": "pooltable",
        "screen door": "screendoor",
        "coffee table": "coffeetable",
        "kitchen island": "kitchenisland",
        "swivel chair": "swivelchair",
        "arcade machine": "arcademachine",
        "television receiver": "televisionreceiver",
        "dirt track": "dirttrack",
        "conveyer belt": "conveyerbelt",
        "swimming pool": "swimmingpool",
        "trade name": "tradename",
        "traffic light": "trafficlight",
        "crt screen": "crtscreen",
        "bulletin board": "bulletinboard",
    },
    short_side=448,
)
