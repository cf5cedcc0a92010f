"""SC-CLIP: the protocol of SCLIP with other scales and thresholds where there is a background."""

from configs.protocols import sclip
from configs.published_protocol import PublishedProtocol

protocol = PublishedProtocol(
    source="SuleBai/SC-CLIP 0417ba9: configs",
    everywhere=sclip.protocol.everywhere,
    benchmarks={
        **sclip.protocol.benchmarks,
        "voc21": {**sclip.protocol.benchmarks["voc21"], "logit_scale": 50.0, "threshold": 0.15},
        "context60": {**sclip.protocol.benchmarks["context60"], "threshold": 0.15},
        "coco_object": {**sclip.protocol.benchmarks["coco_object"], "logit_scale": 55.0, "threshold": 0.35},
    },
)
