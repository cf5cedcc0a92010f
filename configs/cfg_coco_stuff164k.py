"""COCO-Stuff 164k val2017, 80 thing and 91 stuff classes."""

from configs.base import EvalConfig, in_one_word, read_words
from datasets.label_map import COCO_STUFF
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
            *("cow", "giraffe", "suitcase", "frisbee", "skateboard", "carrot", "scissors", "cardboard", "clouds"),
            *("grass", "playingfield", "river", "road", "tree", "wall-concrete"),
        ),
    },
)
config = EvalConfig(
    data=COCO_STUFF164K,
    prompts=in_one_word(
        "traffic light, fire hydrant, stop sign, parking meter, sports ball, baseball bat, baseball glove, tennis "
        "racket, wine glass, hot dog, potted plant, dining table, cell phone, teddy bear, hair drier"
    ),
)
