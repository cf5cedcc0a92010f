"""CAT-Seg on the embedded scenes, transductive: with pseudo labels of the unseen classes. Needs --init-from."""

from configs.heads._cat_seg import SCENES
from configs.training import transductive

config = transductive(SCENES)
