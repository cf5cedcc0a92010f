"""ZegCLIP on Pascal VOC, transductive: with pseudo labels of the unseen classes. Needs --init-from."""

from configs.heads._zegclip import VOC20
from configs.training import transductive

config = transductive(VOC20)
