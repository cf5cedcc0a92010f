"""ClearCLIP (arXiv:2407.12442)."""

from configs.published_protocol import PublishedProtocol

protocol = PublishedProtocol(
    source="mc-lan/ClearCLIP ad68a40: configs",
    everywhere={"short_side": 448, "crop": 448, "stride": 224, "multiple": 0, "logit_scale": 50.0},
    benchmarks={
        "voc20": {},
        "voc21": {"background": "threshold", "threshold": 0.5},
        "context59": {},
        "context60": {"threshold": 0.15},
        "coco_object": {"background": "threshold", "threshold": 0.4},
        "coco_stuff164k": {},
        "cityscapes": {"crop": 224},
        "ade20k": {},
    },
)
