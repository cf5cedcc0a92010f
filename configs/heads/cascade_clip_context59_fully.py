"""Cascade-CLIP on Pascal Context, fully supervised: labels of all 59 classes.

Not among the published configurations: settings as in the inductive run.
"""

from configs.heads._cascade_clip import CONTEXT59
from configs.training import fully

config = fully(CONTEXT59)
