"""The first version of CAT-Seg on COCO-Stuff, labels of all 171 classes: ResNet-101 guides beside CLIP ViT-B/16."""

from configs.heads._cat_seg import R101

config = R101
