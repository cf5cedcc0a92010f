"""Pascal VOC 2012 val, 20 object classes and a background of 39 other names, as CAT-Seg is evaluated.

The names are those of Pascal Context that are not in VOC, without "table" (VOC has "diningtable"). They are queries
like the classes; a pixel with any of them is background.
"""

from dataclasses import replace

from configs.base import EvalConfig
from configs.cfg_voc21 import VOC21

VOC20B = replace(VOC21, name="voc20b")
config = EvalConfig(
    data=VOC20B,
    prompts={
        "background": "bag; bed; bench; book; building; cabinet; ceiling; cloth; computer; cup; door; fence; floor; "
        "flower; food; grass; ground; keyboard; light; mountain; mouse; curtain; platform; sign; plate; road; rock; "
        "shelves; sidewalk; sky; snow; bedclothes; track; tree; truck; wall; water; window; wood"
    },
    background="vocabulary",
)
