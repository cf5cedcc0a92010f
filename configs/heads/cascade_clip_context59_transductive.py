"""Cascade-CLIP on Pascal Context, transductive: with pseudo labels of the unseen classes. Needs --init-from."""

from configs.heads._cascade_clip import CONTEXT59
from configs.training import transductive

config = transductive(CONTEXT59)
