"""The first version of CAT-Seg on COCO-Stuff, labels of all 171 classes: guidance from Swin-B beside CLIP ViT-L/14."""

from configs.heads._cat_seg import SWIN_B

config = SWIN_B
