"""The first version of CAT-Seg on COCO-Stuff, labels of all 171 classes: CLIP ViT-B/16, guidance from ResNet-101."""

from configs.heads._cat_seg import R101

config = R101
