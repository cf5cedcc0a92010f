"""Cascade-CLIP on COCO-Stuff, fully supervised: labels of all 171 classes.

Not among the published configurations: settings as in the inductive run.
"""

from configs.heads._cascade_clip import COCO_STUFF164K
from configs.training import fully

config = fully(COCO_STUFF164K)
