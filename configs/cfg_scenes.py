"""Synthetic scenes, 24 classes; nothing to download, and the embedded models were trained on them: --preset mini."""

from configs.base import EvalConfig
from datasets.scenes.dataset import SyntheticScenes

SCENES = SyntheticScenes()
config = EvalConfig(data=SCENES, short_side=128, crop=64, stride=32, split="test")
