"""COCO-Stuff 164k val2017, 80 thing and 91 stuff classes."""

from configs.base import EvalConfig
from configs.class_file import read_words
from datasets.palettes import COCO_STUFF
from datasets.segmentation import SegmentationData, Split

COCO_STUFF164K = SegmentationData(
    name="coco_stuff164k",
    folder="coco_stuff164k",
    classes=read_words("coco_stuff164k"),
    splits={
        "val": Split(
            images="images/val2017/{}.jpg",
            labels="annotations/val2017/{}_labelTrainIds.png",
            count=(5000,),
            prepare=("coco_stuff",),
        ),
        "train": Split(
            images="images/train2017/{}.jpg",
            labels="annotations/train2017/{}_labelTrainIds.png",
            count=(118287,),
            prepare=("coco_stuff",),
        ),
    },
    palette=COCO_STUFF,
    unseen={
        "zegclip": (
            "cow",
            "giraffe",
            "suitcase",
            "frisbee",
            "skateboard",
            "carrot",
            "scissors",
            "cardboard",
            "clouds",
            "grass",
            "playingfield",
            "river",
            "road",
            "tree",
            "wall-concrete",
        ),
    },
)
config = EvalConfig(
    data=COCO_STUFF164K,
    prompts={  # the published runs write these in one word
        "traffic light": "trafficlight",
        "fire hydrant": "firehydrant",
        "stop sign": "stopsign",
        "parking meter": "parkingmeter",
        "sports ball": "sportsball",
        "baseball bat": "baseballbat",
        "baseball glove": "baseballglove",
        "tennis racket": "tennisracket",
        "wine glass": "wineglass",
        "hot dog": "hotdog",
        "potted plant": "pottedplant",
        "dining table": "diningtable",
        "cell phone": "cellphone",
        "teddy bear": "teddybear",
        "hair drier": "hairdrier",
    },
)
