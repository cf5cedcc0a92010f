"""OTSeg on the embedded scenes, inductive: labels of 17 of 24 classes."""

from configs.heads._otseg import SCENES

config = SCENES
