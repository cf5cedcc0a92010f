"""CAT-Seg with CLIP ViT-B/16 on COCO-Stuff, fully supervised: labels of all 171 classes."""

from configs.heads._cat_seg import COCO_STUFF164K

config = COCO_STUFF164K
