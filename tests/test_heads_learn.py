"""A short training run on the synthetic scenes: the head learns, and with wrong labels it does not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.load import load_config
from configs.training import TrainConfig
from configs.training_data import training_batches
from datasets import scenes
from datasets.scenes.dataset import SyntheticScenes
from heads.training.begin import Recipe, begin
from heads.training.loop import train
from heads.training.plan import plan_head
from heads.training.run import Pace
from heads.training.schedule import Schedule
from heads.training.scores import scores_on
from proxyclip.evaluation.distributed import Ranks

ITERATIONS, SEEDS, TUNE = 250, range(1000, 1300), range(500, 512)


def train_shortly(folder: Path, relabel=lambda labels: labels) -> dict[str, float]:
    """Scores in percent on a few scenes that were not trained on. relabel: changes the labels of a batch."""
    config = load_config("zegclip_scenes_inductive", TrainConfig, Path("configs/heads"))
    # At their own size, scenes are learned faster, if not as well in the end.
    size = {"options": {**config.options, "short_side": 128}, "augment": replace(config.augment, scale=(512, 128))}
    config = replace(config, iterations=ITERATIONS, warmup=20, batch=8, **size)
    planned = plan_head(config.head, config.options, config.clip, config.data.classes, config.seen, "cpu", "bf16")
    recipe = Recipe(config.setting, config.known, config.left_out, rate=config.rate)
    pace = Pace(config.batch, save_every=10**6)
    run = begin(planned, recipe, Schedule(ITERATIONS, warmup=20), pace, folder, {}, {}, Ranks())
    data = SyntheticScenes(splits={"train": SEEDS, "tune": TUNE})
    stream = ((images, relabel(labels)) for images, labels in training_batches(config, data.open(split="train"), 64, 0))
    found = {}
    evaluate = scores_on(data.open(split="tune"), run.head, scenes.UNSEEN, 0, None, Ranks())
    train(run, stream, lambda: found.update(evaluate()) or found)
    return found


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_head_learns_within_a_minute(tmp_path):
    scores = train_shortly(tmp_path)
    assert scores["pAcc"] > 50 and scores["mIoU(S)"] > 12, scores


def test_with_wrong_labels_it_does_not(tmp_path):
    classes = len(scenes.SEEN)
    scores = train_shortly(tmp_path, lambda labels: torch.where(labels >= 0, (labels + 1) % classes, labels))
    assert scores["pAcc"] < 25 and scores["mIoU(S)"] < 8, scores
