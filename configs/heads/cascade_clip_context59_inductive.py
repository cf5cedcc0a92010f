"""Cascade-CLIP on Pascal Context, inductive: labels of 49 of 59 classes."""

from configs.heads._cascade_clip import CONTEXT59

config = CONTEXT59
