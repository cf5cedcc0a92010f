"""What is left to do of a job, from the outputs that exist."""

import json
import pickle
import random
from dataclasses import replace

import pytest

from proxyclip.folder.inputs import Inputs, find_inputs
from proxyclip.folder.job import Job, PendingInput
from proxyclip.vocabulary import Vocabulary

FORMATS = ("labels", "coco", "yolo", "overlay")
FRAME_FORMATS = ("coco", "labels")


@pytest.fixture
def items(tmp_path) -> Inputs:
    """60 images, names that need an ending among them, and 12 videos."""
    listing = tmp_path / "list.txt"
    endings = (".jpg", ".png", ".JPG", ".tif", ".gif", ".mp4")
    listing.write_text("".join(f"in/a{i // 18}/{i - (i % 5 == 1)}{endings[i % 6]}\n" for i in range(72)))
    return find_inputs([str(listing)])


@pytest.fixture
def job(tmp_path) -> Job:
    return Job(None, Vocabulary.parse(["a", "b"]), str(tmp_path / "out"), FORMATS, FRAME_FORMATS)


def draw_outputs(job: Job, items: Inputs, dice: random.Random, chance: float) -> None:
    for item in items:
        if not item.is_video:
            files = [job.path(kind, item.name) for kind in FORMATS]
        else:
            files = [job.video_path(item.name)]
            if dice.random() < chance:
                finished = [kind for kind in FRAME_FORMATS if dice.random() < chance]
                job.storage.write(job.marker_path(item.name), json.dumps(finished).encode())
        for file in files:
            if dice.random() < chance:
                job.storage.write(file, b"x")


def plainly(job: Job, items: Inputs) -> list[PendingInput]:
    """Each output looked up by itself."""
    pending = []
    for item in items:
        if item.is_video:
            marker = job.marker_path(item.name)
            finished = json.loads(job.storage.read(marker)) if job.storage.has(marker) else []
            missing = tuple(kind for kind in job.frame_formats if kind not in finished)
            pending_input = PendingInput(item, missing, not job.storage.has(job.video_path(item.name)))
        else:
            pending_input = PendingInput(
                item, tuple(kind for kind in job.formats if not job.storage.has(job.path(kind, item.name))), False
            )
        if pending_input.missing or pending_input.video:
            pending.append(pending_input)
    return pending


@pytest.mark.parametrize("chance", [0, 0.1, 0.7, 1])
def test_each_output_that_is_missing_is_to_do(job, items, chance):
    draw_outputs(job, items, random.Random(0), chance)
    (pending, expected) = job.pending_inputs(items), plainly(job, items)
    assert [*pending] == expected and len(pending) == len(expected)
    assert [pending[place] for place in range(len(pending))] == expected
    images, videos = pending.parted()
    assert [*images] == [pending_input for pending_input in expected if not pending_input.item.is_video]
    assert [*videos] == [pending_input for pending_input in expected if pending_input.item.is_video]
    for part in (pending, images, videos):
        assert part.kinds() == {kind for pending_input in part for kind in pending_input.missing}
    shares = [pending[place::3] for place in range(3)]
    assert [[*pickle.loads(pickle.dumps(share))] for share in shares] == [expected[place::3] for place in range(3)]


def test_other_formats_are_to_do(job, items):
    """Each format by itself, and no frames of videos on request."""
    draw_outputs(job, items, random.Random(1), 0.5)
    for formats, frame_formats in ((("yolo",), ()), (("labels",), ("labels",)), (FORMATS[::-1], FRAME_FORMATS[::-1])):
        one = replace(job, formats=formats, frame_formats=frame_formats)
        assert [*one.pending_inputs(items)] == plainly(one, items)


def test_what_others_finish_is_no_longer_to_do(job, items):
    """Of images: the frames of videos are looked up when they are read."""
    dice = random.Random(2)
    draw_outputs(job, items, dice, 0.3)
    pending = job.pending_inputs(items)
    before = [*pending]
    draw_outputs(job, items.at([place for place, item in enumerate(items) if not item.is_video]), dice, 0.6)
    for place in items.videos:
        job.storage.write(job.path("labels", items[place].name), b"an image of that name, in an earlier run")
    assert [*job.left_of(pending)] == plainly(job, items)
    assert [*pending] == before and len(before) > len(plainly(job, items))


def test_a_share_holds_only_its_part(job, items):
    share = job.pending_inputs(items)[::10]
    assert len(share.items.paths) == len(share.missing) == 8 and share.missing.base is None
    assert share.items.names.keys() <= {*share.items.paths} and len(share.items.names) < len(items.names)
