"""OTSeg on Pascal Context, transductive: with pseudo labels of the unseen classes. Needs --init-from."""

from dataclasses import replace

from configs.heads._otseg import CONTEXT59
from configs.training import transductive

SHORTER = transductive(CONTEXT59)
config = replace(SHORTER, options={**SHORTER.options, "crop": 420})
