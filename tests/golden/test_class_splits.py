"""Class lists, unseen classes, label tables and text embeddings of the published settings, against those of the
configurations."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden.cases import SHIPPED, all_cases

from configs.cfg_coco_stuff164k import COCO_STUFF164K
from configs.cfg_context59 import CONTEXT59
from configs.cfg_voc20 import VOC20
from datasets.augment import UNLABELLED, LabelTable
from datasets.label_map import VOID
from heads.head import read_text_embeddings

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


SPLIT_OF = {"voc12": "voc20", "coco": "coco_stuff_171"}
SPLIT_OF |= {"context": "pascal_context_59_otseg", "context-59": "pascal_context_59_cascade"}
EMBEDDINGS = sorted(Path(os.environ.get("GOLDEN_DIR") or SHIPPED, "text_embedding").glob("*.npy"))


def read(file: Path) -> dict[str, torch.Tensor]:
    """Name of each class -> its embeddings (E,), or (P, E)."""
    names, stored = SPLITS[SPLIT_OF[file.stem.split("_")[0]]]["class_names"], np.load(file)
    rows = read_text_embeddings(file, names, stored.shape[-1], stored.shape[1] if stored.ndim == 3 else None)
    assert rows.dtype == torch.float32 and np.array_equal(rows, stored.astype(np.float32))
    return dict(zip(names, rows, strict=True))


@pytest.mark.parametrize("file", EMBEDDINGS, ids=lambda file: file.stem)
def test_published_text_embeddings(file):
    """Classes of one name have the same embeddings in all datasets, so the rows are in the order of the classes."""
    own = read(file)
    for other in [other for other in EMBEDDINGS if other.stem.split("_")[1] == file.stem.split("_")[1]]:
        for name, rows in read(other).items():
            if name in own:
                prompts = min(len(rows), len(own[name]))  # of one embedding, its width
                alike = F.cosine_similarity(rows[:prompts], own[name][:prompts], dim=-1)
                assert (alike > 0.998).all(), f"{name} in {other.stem}"
