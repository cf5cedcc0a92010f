"""OTSeg on COCO-Stuff, fully supervised: labels of all 171 classes."""

from configs.heads._otseg import COCO_STUFF164K
from configs.training import fully

config = fully(COCO_STUFF164K)
