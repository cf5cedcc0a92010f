"""Cascade-CLIP on Pascal VOC, fully supervised: labels of all 20 classes.

Not among the published configurations: settings as in the inductive run.
"""

from configs.heads._cascade_clip import VOC20
from configs.training import fully

config = fully(VOC20)
