"""A line chart of scores against thresholds."""

from PIL import Image

from proxyclip.pictures.figure import as_image, empty_figure

WIDTH, HEIGHT = 900, 560  # pixels
COLOURS = ("#366ebe", "#d97b29", "#3d9a5b", "#b3477f", "#7d7d87", "#8a6d3b")
INK, FAINT = "#222228", "#eaeef4"


def curve_chart(title: str, lines: dict[str, tuple], x_label: str, y_label: str) -> Image.Image:
    """lines: name -> x values, y values, and the index of the point to mark."""
    figure = empty_figure(WIDTH, HEIGHT)
    axes = figure.add_axes((0.09, 0.12, 0.88, 0.77))
    for (name, (x, y, best)), colour in zip(lines.items(), COLOURS * len(lines), strict=False):
        label = f"{name}: {y[best]:.1f} at {x[best]:.2f}"
        axes.plot(x, y, color=colour, linewidth=2.5, label=label)
        axes.plot(x[best], y[best], "o", color=colour, markersize=10)
    axes.set_title(title, fontsize=18, color=INK, loc="left", parse_math=False)
    axes.set_xlabel(x_label, fontsize=15, color=INK)
    axes.set_ylabel(y_label, fontsize=15, color=INK)
    axes.tick_params(labelsize=13)
    axes.grid(color=FAINT, linewidth=1.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=14, frameon=False, loc="best")
    axes.set_xlim(left=0)
    return as_image(figure)
