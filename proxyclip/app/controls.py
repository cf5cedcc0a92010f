"""What a person sets before a run: the names, the model, and the method to compare it with."""

from dataclasses import dataclass, fields

import gradio as gr

from proxyclip.app.desk import Desk
from proxyclip.app.models import Choice
from proxyclip.loading import find_preset, preset_names
from proxyclip.vocabulary import THRESHOLD

NOTHING = "none"  # of the methods to compare with
BACKGROUND = [
    ("none: every pixel gets a name", "none"),
    ("pixels below a probability", "threshold"),
    ("a list of usual backgrounds", "vocabulary"),
]


@dataclass(frozen=True)
class Controls:
    """The components, in the order in which `chosen` takes their values."""

    names: gr.Textbox
    pair: gr.Dropdown
    method: gr.Dropdown
    other: gr.Dropdown
    refine: gr.Dropdown
    background: gr.Dropdown
    threshold: gr.Slider

    def inputs(self) -> list:
        return [getattr(self, entry.name) for entry in fields(self)]


def add_controls(desk: Desk) -> Controls:
    """Adds the components to the layout that is being made."""
    first = desk.models.first
    names = gr.Textbox(
        label="Names",
        info="One per line or separated by commas; semicolons separate names of the same thing.",
        placeholder="sky\nsea; ocean\nsand; beach",
        lines=8,
        max_lines=14,
        max_length=desk.limits.max_names * (desk.limits.max_letters + 2),
        elem_id="names",
    )
    pair = gr.Dropdown(
        [(described(desk, name), name) for name in desk.models.pairs],
        value=first.pair,
        label="Model",
        elem_id="model",
    )
    with gr.Row(elem_id="methods"):
        method = gr.Dropdown(titles(desk, first.pair), value=first.method, label="Method", min_width=120)
        other = gr.Dropdown(others(desk, first.pair), value=NOTHING, label="Compare with", min_width=120)
    refinements = [(title, text) for text, title in desk.models.refinements().items()]
    with gr.Accordion("More", open=False, elem_id="more"):
        refine = gr.Dropdown(refinements, value=refinements[0][1], label="Refine outlines by", elem_id="refine")
        background = gr.Dropdown(BACKGROUND, value="none", label="Background", elem_id="background")
        threshold = gr.Slider(0, 1, THRESHOLD, step=0.01, label="Below the probability", visible=False)
    background.change(
        lambda kind: gr.update(visible=kind == "threshold"),
        *(background, threshold),
        show_progress="hidden",
        api_visibility="private",
    )
    controls = Controls(names, pair, method, other, refine, background, threshold)
    pair.change(
        lambda pair: of_pair(desk, pair), pair, [method, other], show_progress="hidden", api_visibility="private"
    )
    return controls


def chosen(pair: str, method: str, other: str) -> list[Choice]:
    """The choice that the components show, and the one to compare it with."""
    methods = [method, *([] if other in (NOTHING, method) else [other])]
    return [Choice(pair, method) for method in methods]


def described(desk: Desk, pair: str) -> str:
    """The pair with the size of its download."""
    if pair == "mini":
        return "mini (embedded)"
    return f"{pair} ({find_preset(pair).megabytes / 1000:.1f} GB)" if pair in preset_names() else pair


def titles(desk: Desk, pair: str) -> list[tuple[str, str]]:
    """What a list of methods shows, and their names."""
    methods = desk.models.methods(pair)
    return sorted(((title, name) for name, title in methods.items()), key=lambda shown: shown[1] != "proxyclip")


def others(desk: Desk, pair: str) -> list[tuple[str, str]]:
    several = titles(desk, pair) if len(desk.models.methods(pair)) > 1 else []
    return [("nothing", NOTHING), *several]


def of_pair(desk: Desk, pair: str) -> tuple:
    """Updates of both lists of methods for another model."""
    shown = titles(desk, pair)
    return gr.update(choices=shown, value=shown[0][1]), gr.update(choices=others(desk, pair), value=NOTHING)
