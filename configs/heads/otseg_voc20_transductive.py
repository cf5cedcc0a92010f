"""OTSeg on Pascal VOC, transductive: with pseudo labels of the unseen classes. Needs --init-from."""

from configs.heads._otseg import VOC20
from configs.training import transductive

config = transductive(VOC20)
