"""OTSeg on Pascal VOC, fully supervised: labels of all 20 classes."""

from configs.heads._otseg import VOC20
from configs.training import fully

config = fully(VOC20)
