"""OTSeg on the embedded scenes, transductive: with pseudo labels of the unseen classes. Needs --init-from."""

from configs.heads._otseg import SCENES
from configs.training import transductive

config = transductive(SCENES)
