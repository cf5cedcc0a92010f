"""ZegCLIP on COCO-Stuff, fully supervised: labels of all 171 classes."""

from configs.heads._zegclip import COCO_STUFF164K
from configs.training import fully

config = fully(COCO_STUFF164K)
