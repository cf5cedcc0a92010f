"""Reference cases of the step from score maps to labels, with and without SCLIP's area rule, and of class files."""

import torch
from golden import dense_models as models
from golden.cases import Case
from golden.heads_models import compare

from proxyclip.labels import LabelRule, decide_labels
from proxyclip.vocabulary import SEPARATOR, Vocabulary, class_lines, split_queries
from proxyclip.windows import SlidingWindows, View, WindowScores

SEPARATORS = {"SCLIP": ", ", "NACLIP": ", ", "ClearCLIP": ","}  # between the names of a class


def check_labels(case: Case) -> None:
    """Both ways to labels: straight from the scores, and from refined maps, with a refinement that changes nothing."""
    given, t, owners = case.settings["hyperparameters"], case.tensors, case.tensors["query_idx"]
    rule = LabelRule(scale=given["logit_scale"], threshold=given["prob_thd"], area=given["area_thd"] or 0.0)
    size, keep = tuple(given["image_hw"]), range(given["num_classes"])
    for refine in (None, lambda maps: maps):
        labels, probabilities = [], []
        for cosines in t["cosines"]:  # (Q, H, W)
            scores = WindowScores((View(cosines.transpose(0, 1), SlidingWindows(0, 1), size),))
            if refine is None:
                found = decide_labels(scores, size, rule, owners, keep=keep)
                plain = decide_labels(scores, size, LabelRule(scale=rule.scale), owners)
            else:
                found = decide_labels(scores, size, rule, owners, refine=refine, keep=keep)
                plain = decide_labels(scores, size, LabelRule(scale=rule.scale), owners, refine=refine)
            if rule.area:
                models.check_areas(case.settings["values"], plain.labels, rule.area, owners)
            labels.append(found.labels.byte())
            probabilities.append(torch.stack([found.class_scores[index] for index in keep]))
        probabilities = torch.stack(probabilities)  # (B, K, H, W)
        if "naclip" in case.file.stem:  # what is stored has been divided by its sum after the labels were taken
            probabilities = probabilities / probabilities.sum(1, keepdim=True)
        compare(case, {"label": torch.stack(labels), "probabilities": probabilities})


def published_lines(text: str, separator: str) -> list[str]:
    """The lines of a class file whose names are separated otherwise than here."""
    return [line.replace(separator, SEPARATOR) for line in class_lines(text)]


def check_class_file(case: Case) -> None:
    for repository, results in case.settings["results"].items():
        for key, expected in results.items():
            lines = published_lines(case.settings["texts"][key], SEPARATORS[repository])
            names, owners = split_queries(lines)
            assert list(names) == expected["names"]
            assert list(owners) == expected["class_index"]
            if all(name.strip() for name in names):  # an empty name is no class here
                vocabulary = Vocabulary.parse(lines)
                assert list(vocabulary.queries) == [name.strip() for name in names]
                assert vocabulary.class_of_query == owners


KINDS = {
    "area_class_file": check_class_file,
    "area_sclip": check_labels,
    "area_naclip": check_labels,
    "area_clearclip": check_labels,
}
