"""The layout of the page, and what its parts set off."""

import json

import gradio as gr
import numpy as np
from matplotlib import colormaps

from proxyclip.app.controls import add_controls, chosen
from proxyclip.app.desk import Desk
from proxyclip.app.examples import EXAMPLES
from proxyclip.app.routes import STATIC
from proxyclip.app.segmenting import Extras, steps
from proxyclip.pictures.heatmap import COLOURS

TITLE = "proxyclip"
HEAD = '<link rel="icon" href="parts/icon.svg" type="image/svg+xml">'
WAITING = 32  # runs in the queue
START = """
import(new URL('parts/page.js', document.baseURI)).then(({ start }) => start({ element, trigger, props, watch }));
// the event that it sets off: 'example'
"""
IMAGE_OF_PAGE = "(_, ...rest) => [window.proxyclip.begin(), ...rest]"  # in place of the viewer's own value


def page(desk: Desk) -> gr.Blocks:
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(read("header.html"), elem_id="header", padding=False)
        with gr.Row(elem_id="columns", equal_height=False):
            with gr.Column(elem_id="viewer-column", scale=3, min_width=320):
                viewer = gr.HTML(
                    value=None,
                    html_template=read("viewer.html"),
                    js_on_load=START,
                    apply_default_css=False,
                    facts=facts(desk),
                    elem_id="viewer",
                )
            with gr.Column(elem_id="controls", scale=1, min_width=300):
                controls = add_controls(desk)
                button = gr.Button("Segment", variant="primary", elem_id="segment", size="lg")

        def segment(image: str, names: str, pair: str, method: str, other: str, *extras):
            yield from steps(desk, image, names, chosen(pair, method, other), Extras(*extras))

        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        filled = viewer.example(names_of_example, outputs=controls.names, **quiet)
        for event in (button.click, controls.names.submit, filled.then):
            event(
                segment,
                [viewer, *controls.inputs()],
                viewer,
                js=IMAGE_OF_PAGE,
                concurrency_limit=1,  # one run at a time, whoever asks
                concurrency_id="model",
                **quiet,
            )
    return blocks.queue(max_size=WAITING)


def names_of_example(event: gr.EventData) -> str:
    example = EXAMPLES.get(event._data.get("name"))
    return example.text if example else ""


def facts(desk: Desk) -> str:
    """What the scripts of the page have to know, as JSON."""
    examples = [{"name": name, "title": example.title} for name, example in EXAMPLES.items()]
    scale = [f"#{bytes(colour[:3]).hex()}" for colour in colormaps[COLOURS](np.linspace(0, 1, 101), bytes=True)]
    return json.dumps({"examples": examples, "limits": vars(desk.limits), "heat": scale})


def read(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")
