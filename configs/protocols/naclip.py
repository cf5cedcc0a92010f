"""NACLIP (arXiv:2404.08181), with PAMR as in its repository's figures; `--set refine=none` for those without."""

from configs.protocols._sclip_family import (
    CITYSCAPES,
    COCO_OBJECT,
    CONTEXT60,
    EVERYWHERE,
    VOC20,
    VOC21,
    WHOLE_IMAGE,
)
from configs.published_protocol import PublishedProtocol

protocol = PublishedProtocol(
    source="sinahmr/NACLIP 0cac3a6: configs and README",
    everywhere={**EVERYWHERE, "refine": "pamr"},
    benchmarks={
        "voc20": {**VOC20, **WHOLE_IMAGE},
        "voc21": {**VOC21, **WHOLE_IMAGE},
        "context59": {},
        "context60": CONTEXT60,
        "coco_object": COCO_OBJECT,
        "coco_stuff164k": {},
        "cityscapes": CITYSCAPES,
        "ade20k": {},
    },
)
