"""Cascade-CLIP on the embedded scenes, inductive: labels of 17 of 24 classes."""

from configs.heads._cascade_clip import SCENES

config = SCENES
