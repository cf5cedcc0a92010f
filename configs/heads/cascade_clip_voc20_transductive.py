"""Cascade-CLIP on Pascal VOC, transductive: with pseudo labels of the unseen classes. Needs --init-from."""

from dataclasses import replace

from configs.heads._cascade_clip import VOC20
from configs.training import transductive

config = replace(transductive(VOC20), batch=8, published_batch=32)
