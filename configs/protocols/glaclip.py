"""GLA-CLIP in what its table calls ProxyCLIP's setting: the standard protocol, but a short side of 448 everywhere."""

from configs.published_protocol import PublishedProtocol

protocol = PublishedProtocol(
    source="2btlFe/GLA-CLIP ba74915: table and configs",
    everywhere={"short_side": 448},
    benchmarks={
        "voc20": {},
        "voc21": {},
        "context59": {},
        "context60": {},
        "coco_object": {},
        "coco_stuff164k": {},
        "cityscapes": {},
        "ade20k": {},
    },
)
