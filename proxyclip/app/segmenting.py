"""One press of the button: from an image, names and a model to what the page shows, step by step."""

import time
from collections.abc import Iterator
from typing import NamedTuple

from proxyclip.app.desk import Desk
from proxyclip.app.held import Result, eager, percent_map
from proxyclip.app.messages import notes, sentence
from proxyclip.app.models import NO_REFINEMENT, Choice, Task
from proxyclip.app.names import read_names
from proxyclip.vocabulary import THRESHOLD, with_background


class Extras(NamedTuple):
    """refine: the text of a refinement. background, threshold: see `with_background`."""

    refine: str = NO_REFINEMENT
    background: str = "none"
    threshold: float = THRESHOLD


PLAIN = Extras()


def steps(desk: Desk, image_key: str, names: str, choices: list[Choice], extras: Extras = PLAIN) -> Iterator[dict]:
    """What happens, for the page: {"busy": text} as often as need be, then {"error": text} or the result.

    choices: the model, and another one to compare it with, if any. extras: what else there is to choose. The result
    holds keys of the maps, which the page then asks for. "at" differs each time, for the browser passes over what it
    has been told before.
    """
    try:
        for step in run(desk, image_key, names, choices, extras):
            yield step | {"at": time.monotonic_ns()}
    except Exception as error:  # the page says what it is; what is not invalid input is logged with its traceback
        yield {"error": sentence(error), "at": time.monotonic_ns()}


def run(desk: Desk, image_key: str, names: str, choices: list[Choice], extras: Extras) -> Iterator[dict]:
    image = desk.image(image_key)
    with notes() as found:
        threshold = extras.threshold if extras.background == "threshold" else None
        task = Task(*with_background(read_names(names, desk.limits), extras.background, threshold), extras.refine)
    heard, results = list(found), []
    for choice in map(desk.models.check, choices):
        title = desk.models.methods(choice.pair)[choice.method]
        if not desk.models.holds(choice):
            yield {"busy": f"Loading {choice.pair}"}
            desk.models.load(choice)
        yield {"busy": f"Segmenting with {title}"}
        started = time.perf_counter()
        with notes() as found:
            wanted = eager(task.vocabulary.names, image.image)
            segmentation = desk.models.segment(choice, image.image, task, wanted)
        heard += found
        seconds = time.perf_counter() - started
        results.append((Result.of(segmentation, title, choice, task, image_key), seconds))
    desk.clear(image)
    image.results = [desk.results.put(result) for result, _ in results]
    first = results[0][0].segmentation
    yield {
        "image": image_key,
        "classes": [
            {"name": name, "colour": "#" + bytes(colour).hex()}
            for name, colour in zip(first.classes, first.colours(), strict=True)
        ],
        "results": [
            result.facts() | {"key": key, "seconds": round(seconds, 2)}
            for (result, seconds), key in zip(results, image.results, strict=True)
        ],
        "notes": list(dict.fromkeys(heard)),
    }


def heat(desk: Desk, key: str, index: int) -> bytes:
    """The probability of one class of a result, as `held.percent_map`; runs the model if it is not there yet."""
    result = desk.result(key)
    if index not in result.heat:
        name = result.segmentation.classes[index]
        with notes():
            again = desk.models.segment(result.choice, result.segmentation.image, result.task, [name])
        result.heat[index] = percent_map(again.probabilities[name])
    return result.heat[index]
