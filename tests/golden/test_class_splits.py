"""Class lists, unseen classes and label tables of the published settings, against those of the configurations."""

import numpy as np
import pytest
from golden.cases import all_cases

from configs.cfg_coco_stuff164k import COCO_STUFF164K
from configs.cfg_context59 import CONTEXT59
from configs.cfg_voc20 import VOC20
from datasets.label_map import VOID
from datasets.labels_for_training import UNLABELLED, LabelTable

SPLITS = next(case.settings for case in all_cases("heads") if case.file.stem == "class_splits")
DATASETS = {"voc20": VOC20, "coco_stuff": COCO_STUFF164K, "pascal_context": CONTEXT59}


@pytest.mark.parametrize("name", SPLITS)
def test_class_splits(name):
    split = SPLITS[name]
    (data,) = (data for start, data in DATASETS.items() if name.startswith(start))
    unseen = data.unseen[split["source"]["repo"].split("/")[1].lower()]
    assert list(data.classes) == [joined(published) for published in split["class_names"]]
    assert sorted(unseen) == sorted(joined(published) for published in split["unseen_names"])

    seen = tuple(data.classes[index] for index in split["seen_idx"])
    assert {*seen} == {*data.classes} - {*unseen}
    labels = np.arange(VOID, split["num_classes"], dtype=np.int32)  # stored as 255, 0, 1, ...
    stored = [255, *labels[1:]]
    for setting, published, of_unseen in (
        ("inductive", "visible_mask", VOID),
        ("transductive", "visible_mask_self_training", UNLABELLED),
    ):
        expected = np.array(split[published])[stored]  # -1 for unseen classes, 255 for no label
        expected = np.where(expected == 255, VOID, np.where(expected == -1, of_unseen, expected))
        table = getattr(LabelTable, setting)(data.classes, seen)
        assert table(labels).tolist() == expected.tolist(), setting
        assert len(table.names) == len(seen if setting == "inductive" else data.classes)
    assert LabelTable.fully(data.classes)(labels).tolist() == labels.tolist()


def joined(published: str) -> str:
    """One published list writes "tv monitor", all others "tvmonitor"."""
    return published.replace("tv monitor", "tvmonitor")
