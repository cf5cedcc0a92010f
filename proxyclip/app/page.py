"""The layout of the page, and what its parts set off."""

import json
import re
from contextlib import contextmanager
from pathlib import Path

import gradio as gr

from proxyclip.app.models import NONE, TITLES
from proxyclip.app.results import FILES, Results
from proxyclip.errors import InputError, NotFound
from proxyclip.vocabulary import BACKGROUNDS, THRESHOLD

WAITING = 32  # events in the queue
MODEL = {"concurrency_limit": 1, "concurrency_id": "model", "preprocess": False}  # one run, whoever asks
QUIET = {"queue": False, "show_progress": "hidden", "api_visibility": "private", "preprocess": False}
HEADER = {"headers": ["class", "area %", "probability %"], "data": []}  # while there is no result
ALL = ("all classes in colour", "")
THEME = gr.themes.Default(primary_hue="teal").set(  # text that everyone can read
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    color_accent="*primary_700",
    block_info_text_color="*neutral_500",
    body_text_color_subdued="*neutral_500",
)
EXAMPLES = Path(__file__).parent / "examples"  # synthetic scenes, which the embedded models know, and their names
# A path of the server: from its first separator to its last, unless it is part of an address or a fraction.
FOLDERS = re.compile(r"(?<![\w:/.~\\])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\,;:'\"()]+[/\\])+")


def sentence(error) -> str:
    """A message without the folders of this machine."""
    text = FOLDERS.sub("…/", str(error))
    return text[:1].upper() + text[1:]


@contextmanager
def refusals():
    """Invalid input becomes a sentence on the page; other errors go to the log, with their traceback."""
    try:
        yield
    except (InputError, NotFound) as error:
        raise gr.Error(sentence(error), print_exception=False) from None
    except Exception as error:
        raise gr.Error("Something went wrong, perhaps for want of memory: the server's log says more") from error


def build_page(results: Results) -> gr.Blocks:
    models, limits = results.models, results.limits
    most = f"up to {limits.upload / 1e6:g} MB and {limits.pixels / 1e6:g} million pixels each"
    how = "One per line or separated by commas; semicolons separate names of the same thing."
    pairs = [(title, pair) for pair, title in models.pairs.items()]
    titles = [(title, method) for method, title in TITLES.items()]
    names_of = json.loads(EXAMPLES.with_suffix(".json").read_text())
    samples = [[[str(EXAMPLES / f"{name}.png")], "\n".join(names)] for name, names in names_of.items()]
    with gr.Blocks(title="proxyclip", analytics_enabled=False, fill_width=True) as blocks:
        gr.Markdown("# proxyclip\nName what you look for: every pixel of a picture gets one of the names.")
        saved = gr.BrowserState(storage_key="proxyclip", secret="proxyclip")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                fit = {"columns": 3, "fit_columns": False, "object_fit": "contain", "height": 230, "buttons": []}
                take = {"sources": ["upload", "clipboard"], "file_types": ["image"]}
                images = gr.Gallery(label=f"Pictures, {most}", **take, **fit)
                names = gr.Textbox(label="Names", info=how, placeholder="sky\nsea; ocean", lines=6, max_lines=14)
                pair = gr.Dropdown(pairs, value=models.pair, label="Model")
                with gr.Row():
                    method = gr.Dropdown(titles, value=models.method, label="Method", min_width=120)
                    other = gr.Dropdown([("nothing", NONE), *titles], value=NONE, label="Compare with", min_width=120)
                with gr.Accordion("Background and refinement", open=False):
                    background = gr.Dropdown([*BACKGROUNDS], value=NONE, label="Background")
                    threshold = gr.Slider(0, 1, THRESHOLD, step=0.01, label="Threshold: background below it")
                    refine = gr.Dropdown([*models.refinements], label="Refinement")
                with gr.Row():
                    start = gr.Button("Segment", variant="primary")
                    cancel = gr.Button("Cancel", min_width=80, scale=0)
                examples = gr.Examples(
                    samples, [images, names], api_visibility="private", visible_columns=[0], elem_id="examples"
                )
            with gr.Column(scale=3, min_width=320):
                shown = gr.Dropdown([], label="Result of", visible=False)
                stale = gr.Markdown("⚠ The names or settings have changed since this result.", visible=False)
                with gr.Tabs() as tabs:
                    with gr.Tab("Classes", id=0):
                        classes = gr.AnnotatedImage(show_label=False, buttons=["fullscreen"])
                    with gr.Tab("Pixels", id=1):
                        name = gr.Dropdown([ALL], value="", label="Heat map of")
                        picture = gr.Image(
                            interactive=False, show_label=False, buttons=["fullscreen"], alt_text="The result"
                        )
                        pixel = gr.Textbox(
                            label="Clicked pixel", placeholder="Click it.", interactive=False, elem_id="pixel"
                        )
                    with gr.Tab("Compare", id=2, visible=False) as compare:
                        slider = gr.ImageSlider(interactive=False, show_label=False, buttons=[])
                opacity = gr.Slider(0, 1, 0.6, step=0.05, label="Opacity")
                areas = gr.Dataframe(HEADER, label="Areas", interactive=False, buttons=["copy"], wrap=True)
                notes = gr.Markdown()
                with gr.Row():
                    kind = gr.Dropdown(FILES, label="File", min_width=120)
                    save = gr.DownloadButton("Download", interactive=False, min_width=120)
        settings = [names, pair, method, other, refine, background, threshold]

        def run(uploads, *values, progress=gr.Progress()):  # noqa: B008 - Gradio looks for it there
            with refusals():
                entries, uploads = [], [upload["image"] for upload in uploads or [] if "image" in upload]
                tell, warn = (lambda text: progress(0, desc=text)), (lambda text: gr.Warning(sentence(text)))
                for key in results.run(uploads, [*values], tell, warn):
                    entries.append((results.get(key).name, key))
                    yield gr.Dropdown(entries, value=entries[0][1], visible=len(entries) > 1)

        def pictures(result, chosen, opacity):
            if chosen:
                results.add_heat(result, chosen)
            drawn = [result.picture(title, chosen, opacity) for title in result.tasks]
            return {picture: drawn[0], slider: (drawn[0], drawn[-1])}

        @refusals()
        def view(key, opacity):
            result = results.get(key)
            annotated = gr.AnnotatedImage(result.annotations(opacity), color_map=result.colours)
            heard = "\n".join(f"- {sentence(note)}" for note in result.notes)
            found = {classes: annotated, areas: result.table(), notes: heard, stale: gr.Markdown(visible=False)}
            found |= {name: gr.Dropdown([ALL, *result.names], value=""), pixel: ""}
            return found | {compare: gr.Tab(visible=len(result.tasks) > 1)} | pictures(result, "", opacity)

        @refusals()
        def draw(key, chosen, opacity):
            return pictures(results.get(key), chosen, opacity)

        @refusals()
        def prepare(key, kind):
            path = results.save(results.get(key), kind)
            return gr.DownloadButton(f"Download {path.name}", value=path, interactive=True)

        def choose(event: gr.SelectData):
            return event.value, gr.Tabs(selected=1)

        @refusals()
        def look(key, event: gr.SelectData):
            return results.get(key).pixel(*event.index)

        def remember(key, *values):
            result = results.held.get(key)
            return [*values], gr.Markdown(visible=result is not None and result.settings != [*values])

        def restore(values):
            return values if len(values or ()) == len(settings) else [gr.skip()] * len(settings)

        @refusals()
        def segment_one(
            image: dict,
            names: str,
            model: str = models.pair,
            method: str = models.method,
            refine: str = NONE,
            background: str = NONE,
            threshold: float = THRESHOLD,
        ) -> tuple[dict, dict]:
            """Labels of an image as an indexed PNG, and a summary: classes, colours, areas and settings."""
            values = [names, model, method, NONE, refine, background, threshold]
            result = results.get(next(results.run([image], values, str, str)))
            return gr.FileData(path=str(results.save(result, "labels"))).model_dump(), result.first.summary()

        started = {"inputs": [images, *settings], "outputs": shown, "show_progress_on": classes}
        hidden = {**MODEL, "api_visibility": "private"}
        events = [start.click, names.submit, examples.load_input_event.then]
        cancel.click(None, cancels=[event(run, **started, **hidden) for event in events])
        views = [classes, areas, notes, name, compare, stale, pixel, picture, slider]
        gr.on([shown.change, opacity.release], view, [shown, opacity], views, **QUIET)
        gr.on([shown.change, kind.change], prepare, [shown, kind], save, **hidden)
        name.change(draw, [shown, name, opacity], [picture, slider], **hidden)
        classes.select(choose, None, [name, tabs], **QUIET)
        picture.select(look, shown, pixel, **QUIET)
        gr.on([part.change for part in settings], remember, [shown, *settings], [saved, stale], **QUIET)
        blocks.load(restore, saved, settings, **QUIET)
        gr.api(segment_one, api_name="segment", concurrency_limit=1, concurrency_id="model")
    return blocks.queue(max_size=WAITING, api_open=False)
