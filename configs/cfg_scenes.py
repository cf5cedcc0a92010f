"""The drawn scenes, 24 classes; nothing to download, and the embedded models know them: --model mini."""

from configs.base import EvalConfig
from datasets.scenes.benchmark import DrawnScenes

SCENES = DrawnScenes()
config = EvalConfig(data=SCENES, short_side=128, crop=64, stride=32, split="test")
