"""The first version of CAT-Seg on COCO-Stuff, labels of all 171 classes: CLIP ViT-L/14, guidance from Swin-B."""

from configs.heads._cat_seg import SWIN_B

config = SWIN_B
