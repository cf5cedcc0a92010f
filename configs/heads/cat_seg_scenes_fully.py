"""CAT-Seg on the embedded scenes, fully supervised: labels of all 24 classes."""

from configs.heads._cat_seg import SCENES
from configs.training import fully

config = fully(SCENES)
