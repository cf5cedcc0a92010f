"""ZegCLIP on COCO-Stuff, transductive: with pseudo labels of the unseen classes. Needs --init-from."""

from configs.heads._zegclip import COCO_STUFF164K
from configs.training import transductive

config = transductive(COCO_STUFF164K)
