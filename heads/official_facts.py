"""What the weights of a published checkpoint of ZegCLIP, OTSeg or Cascade-CLIP tell about its head.

The names of its classes have to be given.
"""

import math
import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from heads import find_head
from heads.facts import Facts, check_same_names
from heads.prompted_encoder import MEAN, STD
from proxyclip.backbones.checkpoints import some
from proxyclip.errors import InputError

CLIP = "ViT-B-16:openai"  # of all of them
STRIDE = 426  # of most published runs
LAYER = re.compile(r"decode_head\.(?:decoder_1|cascade_decoders\.0)\.layers\.(\d+)\.")
NEEDED = ("backbone.positional_embedding", "backbone.conv1.weight", "backbone.prompt_proj.weight")
COUNT = "decode_head.loss_decode.criterion.empty_weight"  # one for each class that training had labels of, and one


def official_facts(
    state: Mapping[str, Tensor],
    stored: Sequence[str] | None,
    source: str,
    head: str | None,
    classes: Sequence[str] | None,
    seen: Sequence[str] | None,
    assumed: Mapping,
    training: Mapping,
) -> Facts:
    """From weights under their published names, of which only shapes are used.

    stored: class names from the file, if it has any. source: the file, for error messages. head, classes, seen: as
    given. assumed: options that training had. training: see `Facts`. Raises InputError where something is missing or
    contradicts the file.
    """
    check_present(state, NEEDED, source)
    name = head_of(state, head, source)
    classes = stored if classes is None else classes
    if classes is None or seen is None:
        needed = " and ".join(what for what, value in (("classes", classes), ("seen", seen)) if value is None)
        raise InputError(
            f"{source} does not say which classes it was trained on: give {needed}, or its training configuration"
        )
    if stored is not None:
        check_same_names("classes", map(plain, classes), map(plain, stored), source)
    classes, seen = tuple(classes), tuple(seen)
    check_counts(state, classes, seen, source)
    return Facts(
        head=name,
        options=options_of(state, name, assumed, source),
        classes=classes,
        seen=seen,
        clip=CLIP,
        clip_fingerprint="",
        known_words=None,
        mean=MEAN,
        std=STD,
        version="",
        training=dict(training),
    )


def head_of(state: Mapping[str, Tensor], given: str | None, source: str) -> str:
    """The name of the head, from the names of its weights and, where these leave it open, as given."""
    cascade = any(name.startswith("decode_head.cascade_decoders.") for name in state)
    if not cascade and not any(name.startswith("decode_head.decoder_1.") for name in state):
        raise InputError(f"{source} has no decoder of ZegCLIP, OTSeg or Cascade-CLIP")
    fitting = ("cascade_clip",) if cascade else ("zegclip", "otseg")
    if given is None and len(fitting) > 1:
        raise InputError(f"{source} is of zegclip or of otseg, whose weights have the same names: say which head it is")
    check_head(given, fitting, source)
    return given or fitting[0]


def check_head(given: str | None, fitting: tuple[str, ...], source: str) -> None:
    """InputError for a head that is given, but is none of those that the weights may be of."""
    if given not in (None, *fitting):
        find_head(given)
        raise InputError(f"{source} is of {' or '.join(fitting)}, not of {given}")


def check_present(state: Mapping[str, Tensor], needed: Sequence[str], source: str) -> None:
    """InputError unless all of these weights are there."""
    if absent := [name for name in needed if name not in state]:
        raise InputError(f"{source} lacks {some(absent)}")


def check_seen(classes: tuple, seen: tuple) -> None:
    """InputError for seen classes that are none."""
    if unknown := [name for name in seen if name not in classes]:
        raise InputError(f"seen names {some(unknown)}, not among the classes")


def agreed(found: Mapping, assumed: Mapping, source: str) -> dict:
    """Options that the weights tell, and those assumed; InputError where they contradict each other."""
    for option, value in found.items():
        if assumed.get(option, value) != value:
            raise InputError(f"{option} is {assumed[option]}, but {source} was trained with {value}")
    return {**assumed, **found}


def check_counts(state: Mapping[str, Tensor], classes: tuple, seen: tuple, source: str) -> None:
    """InputError unless the loss in training was of as many classes as there are, all or seen."""
    check_seen(classes, seen)
    if COUNT in state and (count := len(state[COUNT]) - 1) not in (len(classes), len(seen)):
        given = f"{len(classes)}, {len(seen)} of them seen"
        raise InputError(f"{source} was trained with other classes than those given: {count}, not {given}")


def options_of(state: Mapping[str, Tensor], head: str, assumed: Mapping, source: str) -> dict:
    """The options of the head: those that the shapes of the weights tell, and those assumed."""
    first, deep = (state.get(f"backbone.{name}") for name in ("prompt_embeddings", "deep_prompt_embeddings"))
    if first is None and deep is None:
        raise InputError(f"{source} has no prompts")
    patches, patch = len(state["backbone.positional_embedding"]) - 1, state["backbone.conv1.weight"].shape[-1]
    if math.isqrt(patches) ** 2 != patches:
        raise InputError(f"{source} has positions for {patches} patches, which form no square")
    further, side = 0 if deep is None else len(deep), math.isqrt(patches) * patch
    found = {
        "image_size": side,
        "prompts": (deep if first is None else first).shape[1],
        "prompt_blocks": -further if first is None else further,
        "decoder_layers": len({match[1] for name in state if (match := LAYER.match(name))}),
    }
    assumed = {"short_side": side, "crop": side, "stride": min(STRIDE, side)} | dict(assumed)
    if assumed.get("prompt_blocks", 0) is None:  # all
        assumed["prompt_blocks"] = depth_of(state) - 1
    if head == "cascade_clip":
        found["group_size"] = len(state["decode_head.weights_s1"])
        levels = assumed.setdefault("levels", find_head(head).Options().levels)
        if len(levels) != (count := len(state["backbone.proj_layers"])):
            raise InputError(f"{source} uses {count} blocks besides the last: name them with levels, not {levels}")
    return agreed(found, assumed, source)


def depth_of(state: Mapping[str, Tensor]) -> int:
    """The number of blocks of the image tower."""
    return len({name.split(".")[3] for name in state if name.startswith("backbone.transformer.resblocks.")})


def plain(name: str) -> str:
    """A class name for comparison: some write "pottedplant", some "potted plant"."""
    return "".join(filter(str.isalnum, str(name).lower()))
