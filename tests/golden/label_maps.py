"""From score maps to labels: by a whole model, by the label rule alone, and after a refinement."""

import torch
import torch.nn.functional as F
from class_file_queries import split_queries
from golden import towers
from golden.cases import Case
from torch import Tensor

from proxyclip.labels import LabelMap, LabelRule, decide_labels, small_classes
from proxyclip.refine import Guide, pamr, tlp
from proxyclip.segmentor import Sample, Segmentor
from proxyclip.vocabulary import SEPARATOR, Vocabulary, class_lines
from proxyclip.windows import SlidingWindows, View, WindowScores

SEPARATORS = {"SCLIP": ", ", "NACLIP": ", ", "ClearCLIP": ","}  # of the names of a class, in published class files
SCORES = LabelRule(activation="none")  # as they are
TLP_NAMES = {"grid": "grid", "tau_S": "tau", "diag_boost": "boost", "ke_img": "ke", "cg_iters": "steps"}


def vocabulary(owners) -> Vocabulary:
    """One with a query for each of the owners, which are indices of classes in any order."""
    classes = tuple(f"class {index}" for index in range(int(max(owners)) + 1))
    queries = tuple(f"query {index}" for index in range(len(owners)))
    return Vocabulary(classes, queries, tuple(map(int, owners)), classes)


def predict(model: Segmentor, image: Tensor, size, words: Vocabulary, rule: LabelRule) -> tuple[LabelMap, Tensor]:
    """The label map at `size` (H, W) of an image (3, h, w), and the score maps of all classes (K, H, W)."""
    keep = range(len(words.classes))
    ((_, result),) = model.predict_each([Sample(image, tuple(size))], words, rule, batch_windows=2, keep=keep)
    return result, torch.stack([result.class_scores[index] for index in keep])


def decide(maps: Tensor, rule: LabelRule, owners: Tensor, refine=None) -> tuple[Tensor, Tensor]:
    """Labels (H, W), and the scores of all classes (K, H, W), from score maps (Q, H, W); refine: maps -> maps."""
    size, keep = tuple(maps.shape[1:]), range(int(owners.max()) + 1)
    scores = WindowScores((View(maps.transpose(0, 1), SlidingWindows(0, 1), size),))
    result = decide_labels(scores, size, rule, owners, refine=refine, keep=keep)
    return result.labels, torch.stack([result.class_scores[index] for index in keep])


def boxes_and_paddings(windows: SlidingWindows, size) -> tuple[list[list[int]], list[list[int]]]:
    """All windows (y1, x1, y2, x2) of an image (H, W), and their paddings (left, right, top, bottom)."""
    (height, width), (side_h, side_w) = size, map(windows.side, size)
    boxes = [[y, x, y + side_h, x + side_w] for y in windows.starts(height) for x in windows.starts(width)]
    return boxes, [[*windows.padding(width), *windows.padding(height)]] * len(boxes)


def check_areas(case: Case, labels: Tensor, area: float, owners: Tensor) -> None:
    """Pixels of each class before the area rule, and the classes that it takes them from."""
    counts = labels.flatten().bincount(minlength=int(owners.max()) + 1)
    assert counts.tolist() == case.values["area_counts_before_rule"]
    assert small_classes(labels, area, owners).nonzero().flatten().tolist() == case.values["classes_zeroed"]


def check_labels(case: Case) -> None:
    """Both ways to labels: straight from the scores, and from refined maps, with a refinement that changes nothing."""
    given, t = case.hyperparameters, case.tensors
    rule = LabelRule(given["logit_scale"], threshold=given["prob_thd"], area=given["area_thd"] or 0.0)
    owners = t["query_idx"]
    for refine in (None, lambda maps: maps):
        labels, probabilities = zip(*(decide(maps, rule, owners, refine) for maps in t["cosines"]), strict=True)
        if rule.area:
            for maps in t["cosines"]:
                check_areas(case, decide(maps, LabelRule(rule.scale), owners, refine)[0], rule.area, owners)
        probabilities = torch.stack(probabilities)  # (B, K, H, W)
        if case.settings["source"]["repo"].endswith("NACLIP"):  # stored divided by their sum, after labels were taken
            probabilities = F.normalize(probabilities, p=1, dim=1)
        case.compare({"label": torch.stack(labels), "probabilities": probabilities})


def check_class_file(case: Case) -> None:
    for repository, results in case.settings["results"].items():
        for key, expected in results.items():
            text = case.settings["texts"][key]
            lines = [line.replace(SEPARATORS[repository], SEPARATOR) for line in class_lines(text)]
            names, owners = split_queries(lines)
            assert (list(names), list(owners)) == (expected["names"], expected["class_index"])
            if all(name.strip() for name in names):  # an empty name is no class here
                words = Vocabulary.parse(lines)
                assert (words.queries, words.class_of_query) == (tuple(name.strip() for name in names), owners)


def pamr_refinement(setting) -> pamr.Refinement | None:
    """From the number of steps and the dilations, in a list or a dict, or nothing."""
    if not setting:
        return None
    steps, dilations = setting.values() if isinstance(setting, dict) else setting
    return pamr.Refinement(pamr.Options(steps, tuple(dilations)))


def by_twos(refined, queries: int) -> Tensor:
    """All refined maps (Q, H, W), asked for two at a time."""
    return torch.cat([refined(slice(first, first + 2)) for first in range(0, queries, 2)])


def check_pamr(case: Case) -> None:
    given, t = case.hyperparameters, case.tensors
    refinement = pamr_refinement([given["num_iter"], given["dilations"]])
    size = t["image"].shape[2:]
    # The published code resizes maps itself; here they have the size of the image.
    maps = F.interpolate(t["maps"], size, mode="bilinear", align_corners=True)
    pairs = zip(t["image"], maps, strict=True)
    refined = torch.stack([by_twos(refinement(own.__getitem__, Guide(image, None)), len(own)) for image, own in pairs])
    computed = {"refined": refined, "label": refined.argmax(1)}
    index = pamr.neighbours(*size, refinement.options.dilations, t["image"].device)
    for number, image in enumerate(t["image"]):
        weights = pamr.affinity(image, index, len(given["dilations"]))  # (H * W, N)
        computed[f"affinity_image{number}"] = weights.T.unflatten(1, size)[None]
    case.compare(computed)


def tlp_refinement(given: dict) -> tlp.Refinement:
    return tlp.Refinement(tlp.Options(**{own: given[name] for name, own in TLP_NAMES.items() if name in given}))


class MeansOfBatch(tlp.Refinement):
    """As published: differences in grey are relative to their mean in all images of a batch, not in each one."""

    def __init__(self, options: tlp.Options, images: Tensor):
        super().__init__(options)
        self.greys = torch.stack([self.grey(image) for image in images])  # (B, h, w)

    def scale(self, grey: Tensor) -> Tensor:
        """grey: of one of the images, (h, w) for its columns or (w, h) for its rows."""
        ways = (self.greys, self.greys.mT)
        (greys,) = (way for way in ways if any(torch.equal(grey, of_image) for of_image in way))
        return greys.diff(dim=2).abs().mean()


def check_propagation(case: Case) -> None:
    given, t, images = case.hyperparameters, case.tensors, towers.images(case)
    refine, text = tlp_refinement(given), t.get("text")
    if len(images) > 1:
        refine = MeansOfBatch(refine.options, images)
    similarity = None if text is None else tlp.similarity(text, refine.options)
    trust = torch.zeros(1, 1, 1) if text is None else similarity.diagonal()[:, None, None]
    # The published code takes the grey of normalised images; the difference is the same everywhere.
    offset = sum(weight * mean for weight, mean in zip(tlp.GREY, towers.clip_statistics()[0], strict=True))
    steps = {name: int(name.split("_")[1]) for name in t if name.startswith("solution_")}  # "solution_5_steps"
    results = []
    for image, maps in zip(images, t["cosines"], strict=True):
        guide, small = Guide(image, None, len(maps), text), refine.pool(maps)
        system, probabilities = refine.system(small, guide), small.softmax(0)
        results.append({
            "probs": probabilities,
            "agree": tlp.agreement(probabilities, probabilities, trust)[None],
            "gray": refine.grey(image)[None] - offset,
            "w_horizontal": system.across[None],
            "w_vertical": system.down[None],
            "small_logits": small,
            "confidence": system.confidence[None],
            "rhs": system.confidence * small,
            "solution": system.solve(small, refine.options.steps),
            "output": by_twos(refine(maps.__getitem__, guide), len(maps)),
            **{name: system.solve(small, count) for name, count in steps.items()},
        })  # fmt: skip
    computed = {name: torch.stack([result[name] for result in results]) for name in results[0]}
    case.compare(computed | {"S": similarity})


KINDS = {
    "area_class_file": check_class_file,
    "area": check_labels,
    "pamr": check_pamr,
    "pearl_tlp": check_propagation,
}
