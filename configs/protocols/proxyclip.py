"""ProxyCLIP: the standard protocol of this project is that of its published runs (arXiv:2408.04883)."""

from configs.published_protocol import PublishedProtocol

protocol = PublishedProtocol(
    source="mc-lan/ProxyCLIP 05c3c18: configs",
    benchmarks={
        "voc20": {},
        "voc21": {},
        "context59": {},
        "context60": {},
        "context459": {},
        "coco_object": {},
        "coco_stuff164k": {},
        "cityscapes": {},
        "ade20k": {},
        "ade847": {},
    },
)
