"""Accuracy over the two axes of a grid."""

import math
import textwrap

import numpy as np

from mnist_jax.report.figures import canvas
from mnist_jax.report.figures.scales import places_of, tick_texts
from mnist_jax.report.points import criterion_words
from mnist_jax.runs.labels import varying
from mnist_jax.runs.results import Run, protocol

MAX_CELLS = 100  # of a heat map, with numbers in them


def draw_heat_map(run: Run):
    """Draws the mean test accuracy of a grid that is the product of two axes."""
    p, grid, dataset = protocol(run), run.summary["grid"], run.summary["dataset"]
    down, across = varying(grid)
    rows, columns = places_of(grid, down), places_of(grid, across)
    size = (min(max(1.8 + 0.85 * len(columns), 4.5), 9.0), min(2 + 0.5 * len(rows), 9.0))
    figure, [ax] = canvas.subplots(f"{dataset}: mean {p.measure} ({p.words})", size)
    cells = {(rows[point[down]], columns[point[across]]): point for point in grid}
    means = np.full((len(rows), len(columns)), math.nan)
    for cell, point in cells.items():
        means[cell] = canvas.mean_interval(point, p.column)[0]
    view = canvas.View()
    view.add(means)
    low, high = (min(max(limit, 0), 100) for limit in view.limits())
    image = ax.imshow(means, "cividis", vmin=low, vmax=high, origin="lower", aspect="auto")
    for (y, x), point in cells.items():
        mean, bottom, _ = canvas.mean_interval(point, p.column)
        text = "diverged" if math.isnan(mean) else f"{mean:.2f}"
        if math.isfinite(bottom):
            text += f"\n± {mean - bottom:.2f}"
        if 0 < (lost := len(point["diverged_seeds"])) < point["num_trials"]:
            text += f"\n{lost} diverged"
        if len(cells) <= MAX_CELLS:
            color = "white" if mean < (low + high) / 2 else "black"
            ax.text(x, y, text, ha="center", va="center", color=color, fontsize=7)
        if point["point"] == run.summary["chosen_point"]:
            frame = ([x - 0.5, x + 0.5, x + 0.5, x - 0.5], [y - 0.5, y - 0.5, y + 0.5, y + 0.5])
            ax.fill(*frame, fill=False, ec=canvas.COLORS[1], lw=2.5, clip_on=False, zorder=3)
    ax.grid(False)
    wide = 0.7 * size[0] / len(columns)  # inches
    for values, inches, set_ticks in ((rows, 3.0, ax.set_yticks), (columns, wide, ax.set_xticks)):
        step = math.ceil(len(values) / 20)
        texts, is_flat = tick_texts(list(values), inches * step)
        set_ticks(range(0, len(values), step), texts[::step], rotation=0 if is_flat else 90)
    ax.set(xlabel=textwrap.fill(across, 40), ylabel=textwrap.fill(down, 40))
    extend = "min" if view.words() else "neither"
    figure.colorbar(image, ax=ax, label=f"{p.measure} (%)", extend=extend)
    caption = f"Mean {p.measure} on {dataset} by {down} and {across} ({p.words})"
    caption += ", with the half-width of its 95 % interval (Student) where there are several seeds."
    if p.criterion:
        which = "best" if run.progress else "chosen"
        caption += f" Framed: the {which} point, best by mean {criterion_words(p)}."
    return figure, caption + canvas.lost_words(grid) + view.words("colour scale")
