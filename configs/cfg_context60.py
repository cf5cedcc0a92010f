"""Pascal Context val, 59 classes and background."""

from dataclasses import replace

from configs.base import EvalConfig
from configs.cfg_context59 import CONTEXT59
from datasets.label_map import ADE20K

CONTEXT60 = replace(
    CONTEXT59,
    name="context60",
    classes=("background", *CONTEXT59.classes),
    palette=ADE20K[:60],
    void=None,
    zero_is_void=False,
    unseen={},
)
config = EvalConfig(data=CONTEXT60, background="threshold", threshold=0.15)
