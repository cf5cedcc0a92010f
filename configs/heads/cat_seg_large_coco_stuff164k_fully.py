"""CAT-Seg with CLIP ViT-L/14 at 336 pixels on COCO-Stuff, fully supervised: labels of all 171 classes."""

from configs.heads._cat_seg import COCO_STUFF164K_LARGE

config = COCO_STUFF164K_LARGE
