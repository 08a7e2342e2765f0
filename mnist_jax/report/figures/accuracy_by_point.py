"""Accuracies of grid points, or of runs, below each other."""

import textwrap
from collections.abc import Sequence

import numpy as np

from mnist_jax.report.figures import canvas
from mnist_jax.report.points import NamedPoint
from mnist_jax.runs.results import protocol


def draw_points(named: Sequence[NamedPoint], title: str):
    """Draws test accuracies with their intervals, a row per point."""
    names = [textwrap.fill(each.name, 48) for each in named]
    tallest = 1 + max(name.count("\n") for name in names)
    row_height = max(0.32, 0.08 + 0.145 * tallest)  # inches
    figure, [ax] = canvas.subplots(title, (7.2, 1.3 + row_height * len(named)))
    protocols = list(dict.fromkeys(protocol(each.run).words for each in named))
    measures = dict.fromkeys(protocol(each.run).measure for each in named)
    points, view, means = [each.point for each in named], canvas.View(), []
    for y, (_, run, point) in enumerate(named):
        p = protocol(run)
        i = protocols.index(p.words) % len(canvas.COLORS)
        color = canvas.COLORS[i]
        mean, low, high = canvas.mean_interval(point, p.column)
        dots = [100 * row[p.column] for row in canvas.sound_trials(run, [point])[point["point"]]]
        if len(dots) > 1:
            canvas.plot_trials(ax, dots, np.full(len(dots), y + 0.25), color=color)
        ax.hlines(y, low, high, color=color, lw=1.4)
        ax.plot(mean, y, canvas.MARKERS[i], color=color, ms=5, label=f"{p.measure} ({p.words})")
        view.add([*dots, low, high])
        means.append(mean)
    ax.set_yticks(range(len(named)), names, fontsize=8)
    ax.set(ylim=(len(named) - 0.5, -0.5), xlim=view.limits())
    ax.set_xlabel(f"{', '.join(measures)} (%)")
    for y, mean in enumerate(means):
        if text := view.missing(mean):
            ax.text(0.01, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8)
    if len(protocols) > 1:
        canvas.add_legend(figure, [ax])
    words = canvas.interval_words(points) + canvas.lost_words(points) + view.words()
    return figure, f"{title}.{words}"
