"""matplotlib figures as Pillow images, without the global state of pyplot.

matplotlib is imported where it is needed: `segment` does not wait for it.
"""

import math

import numpy as np
from PIL import Image

DPI = 72  # with which a point is a pixel, so font sizes are in pixels


def empty_figure(width: float, height: float):
    """A figure of at least that many pixels."""
    from matplotlib.figure import Figure

    return Figure((math.ceil(width) / DPI, math.ceil(height) / DPI), dpi=DPI)


def as_image(figure) -> Image.Image:
    """What matplotlib draws of a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def widest(texts: list[str], font) -> float:
    """Pixels of the widest text in a Pillow font, as matplotlib draws it: Pillow may place letters closer."""
    from matplotlib.backends.backend_agg import RendererAgg

    renderer, properties = RendererAgg(1, 1, DPI), font_properties(font)
    sizes = (renderer.get_text_width_height_descent(text, properties, ismath=False) for text in texts if text)
    return max((width for width, _, _ in sizes), default=0)


def font_properties(font):
    """The file and size of a Pillow font, for matplotlib."""
    from matplotlib.font_manager import FontProperties

    return FontProperties(fname=font.path, size=font.size)
