"""CAT-Seg on the embedded scenes, inductive: labels of 17 of 24 classes."""

from configs.heads._cat_seg import SCENES

config = SCENES
