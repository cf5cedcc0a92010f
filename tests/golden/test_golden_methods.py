"""The published training-free methods and their refinements, case by case, within the tolerances of the reference data.

As for the engine: the shipped case always runs, $GOLDEN_DIR adds more. Every tensor of a case must be computed here.
"""

import pytest
import torch
import torch.nn.functional as F
from golden import heads_models as models
from golden import (
    methods_area,
    methods_clearclip,
    methods_gem,
    methods_gla,
    methods_naclip,
    methods_pearl,
    methods_resclip,
    methods_scclip,
    methods_sclip,
)
from golden.cases import SHIPPED, all_cases

from proxyclip.refine import Guide
from proxyclip.refine.pamr import Options, Refinement, affinity, neighbours

CASES = all_cases("methods")


def check_pamr(case):
    given, t = case.settings["hyperparameters"], case.tensors
    image, maps = t["image"], t["maps"]
    options = Options(given["num_iter"], tuple(given["dilations"]))
    if maps.shape[-2:] != image.shape[-2:]:  # the published code resizes maps itself; here they have the image's size
        maps = F.interpolate(maps, image.shape[-2:], mode="bilinear", align_corners=True)
    refined = []
    for guide, found in zip(image, maps, strict=True):
        refine = Refinement(options)(lambda queries, found=found: found[queries], Guide(guide, None))
        refined.append(torch.cat([refine(slice(0, 2)), refine(slice(2, None))]))
    computed = {"refined": torch.stack(refined), "label": torch.stack(refined).argmax(1).byte()}
    index = neighbours(*image.shape[-2:], options.dilations, image.device)
    if "affinity_image0" in t:
        weights = affinity(image[0], index, len(options.dilations))  # (H * W, N)
        computed["affinity_image0"] = weights.T.unflatten(1, image.shape[-2:])[None]
    models.compare(case, computed)


FAMILIES = (methods_area, methods_clearclip, methods_gem, methods_gla, methods_naclip, methods_pearl, methods_sclip)
FAMILIES = (
    methods_area,
    methods_clearclip,
    methods_gem,
    methods_gla,
    methods_naclip,
    methods_pearl,
    methods_resclip,
    methods_scclip,
    methods_sclip,
)
# By how the names of their cases begin.
KINDS = {"pamr": check_pamr} | {kind: check for family in FAMILIES for kind, check in family.KINDS.items()}


@pytest.mark.parametrize("case", CASES, ids=str)
@torch.inference_mode()
def test_golden(case):
    kind = kind_of(case.file.stem)
    assert kind, f"{case.file.stem} is a case of unknown kind; known: {', '.join(KINDS)}"
    KINDS[kind](case)


def kind_of(stem: str) -> str:
    """The longest kind that the name of a case begins with; "" if there is none."""
    return max((kind for kind in KINDS if stem.startswith(kind)), key=len, default="")


def test_every_family_of_cases_is_shipped():
    """Not every kind: the weights of whole towers are too large."""
    shipped = {kind_of(file.stem).partition("_")[0] for file in (SHIPPED / "methods").glob("*.json")}
    assert shipped == {kind.partition("_")[0] for kind in KINDS}
