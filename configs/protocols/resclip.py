"""ResCLIP on NACLIP (arXiv:2411.15851): NACLIP's windows and words without its refinement, and weights of its own for
each benchmark. Only benchmarks whose weights could be confirmed are here."""

from configs.protocols._sclip_family import CITYSCAPES, EVERYWHERE, VOC20, WHOLE_IMAGE
from configs.published_protocol import PublishedProtocol

SCALES = {"residual_scale": 2.0, "feedback_scale": 2.1}

protocol = PublishedProtocol(
    source="yvhangyang/ResCLIP 0e085f7: configs",
    everywhere={**EVERYWHERE, **SCALES},
    benchmarks={
        "voc20": {
            **VOC20,
            **WHOLE_IMAGE,
            "residual_weight": 0.6,
            "feedback_weight": 0.6,
            "feedback_threshold": 0.1,
        },
        "context59": {
            "residual_weight": 0.4,
            "feedback_scale": 1.8,
            "feedback_weight": 0.7,
            "feedback_threshold": 0.25,
        },
        "cityscapes": {
            **CITYSCAPES,
            "residual_weight": 0.2,
            "feedback_weight": 0.6,
            "feedback_threshold": 0.1,
        },
        "ade20k": {"residual_weight": 0.3, "feedback_weight": 0.7, "feedback_threshold": 0.25},
    },
)
