"""SCLIP (arXiv:2312.01597)."""

from configs.protocols._sclip_family import CITYSCAPES, COCO_OBJECT, CONTEXT60, EVERYWHERE, VOC20, VOC21
from configs.published_protocol import PublishedProtocol

protocol = PublishedProtocol(
    source="wangf3014/SCLIP b56bd30: configs and class files",
    everywhere=EVERYWHERE,
    benchmarks={
        "voc20": VOC20,
        "voc21": {**VOC21, "logit_scale": 65.0, "area": 0.1},
        "context59": {},
        "context60": {**CONTEXT60, "logit_scale": 50.0},
        "coco_object": {**COCO_OBJECT, "logit_scale": 50.0},
        "coco_stuff164k": {"short_side": 448},
        "cityscapes": CITYSCAPES,
        "ade20k": {},
    },
)
