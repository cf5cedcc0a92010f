"""Pascal VOC 2012 val, 20 object classes and background."""

from dataclasses import replace

from configs.base import EvalConfig
from configs.cfg_voc20 import VOC20
from datasets.label_map import pascal

VOC21 = replace(
    VOC20, name="voc21", classes=("background", *VOC20.classes), palette=pascal(21), zero_is_void=False, unseen={}
)
config = EvalConfig(
    data=VOC21,
    prompts={
        "background": "sky; wall; tree; wood; grass; road; sea; river; mountain; sands; desk; bed; building; cloud; "
        "lamp; door; window; wardrobe; ceiling; shelf; curtain; stair; floor; hill; rail; fence",
        "boat": "ship",
        "diningtable": "table",
    },
    background="vocabulary",
    threshold=0.2,
)
