"""Cascade-CLIP on Pascal VOC, inductive: labels of 15 of 20 classes."""

from configs.heads._cascade_clip import VOC20

config = VOC20
