"""OTSeg on Pascal Context, inductive: labels of 49 of 59 classes."""

from configs.heads._otseg import CONTEXT59

config = CONTEXT59
