"""The published training-free methods and their refinements, case by case, within the tolerances of the reference data.

As for the engine: the shipped case always runs, $GOLDEN_DIR adds more. Every tensor of a case must be computed here.
"""

import pytest
import torch
import torch.nn.functional as F
from golden import heads_models as models
from golden.cases import SHIPPED, all_cases

from proxyclip.refine._refinement import Guide
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


KINDS = {"pamr": check_pamr}
# Kinds of cases whose method or rule is not part of this project.
ABSENT = ("area", "clearclip", "gem", "gla", "naclip", "pearl", "resclip", "scclip", "sclip")


@pytest.mark.parametrize("case", CASES, ids=str)
@torch.inference_mode()
def test_golden(case):
    kind = case.file.stem.partition("_")[0]
    assert kind in KINDS or kind in ABSENT, f"{case.file.stem} is a case of unknown kind; known: {', '.join(KINDS)}"
    if kind in ABSENT:
        pytest.skip(f"{kind} is not implemented")
    KINDS[kind](case)


def test_every_kind_of_case_is_shipped():
    shipped = [file.stem.partition("_")[0] for file in (SHIPPED / "methods").glob("*.json")]
    assert set(shipped) == set(KINDS)
