"""ZegCLIP on COCO-Stuff, inductive: labels of 156 of 171 classes."""

from configs.heads._zegclip import COCO_STUFF164K

config = COCO_STUFF164K
