"""open_clip, timm and segment-anything all import torchvision; this makes that import work everywhere.

The torchvision wheel of the public index is built for CUDA. Beside a CPU build of torch its compiled operators do not
load, and then the import itself stops with "operator torchvision::nms does not exist". Nothing here or in the three
libraries' image towers calls those operators, so declaring their names is enough.
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
    """`open_clip`, `timm`, `segment_anything` or `transformers`, imported when first needed."""
    import_torchvision()
    return importlib.import_module(name)
