"""Makes torchvision importable everywhere, because open_clip, timm and segment-anything all import it.

The torchvision wheel on PyPI is built for CUDA. With a CPU build of torch, its compiled operators do not load, and the
import fails with "operator torchvision::nms does not exist". Neither this package nor the image encoders of the three
libraries call those operators, so declaring their names is enough.
"""

import importlib


def import_torchvision():
    """torchvision, also where its compiled operators cannot be loaded."""
    import torch

    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")


def import_library(name: str):
    """`open_clip`, `timm`, `segment_anything` or `transformers`, imported on first use."""
    import_torchvision()
    return importlib.import_module(name)
