"""OTSeg on Pascal Context, fully supervised: labels of all 59 classes."""

from configs.heads._otseg import CONTEXT59
from configs.training import fully

config = fully(CONTEXT59)
