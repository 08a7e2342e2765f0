"""Accuracies of grid points, or of runs, below each other."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnist_jax.report.figures.canvas import (
    COLORS,
    MARKERS,
    View,
    add_legend,
    add_title,
    interval_words,
    lost_words,
    mean_interval,
    sound_trials,
    subplots,
)
from mnist_jax.report.points import NamedPoint
from mnist_jax.runs.results import protocol


def draw_points(named: Sequence[NamedPoint], title: str):
    """Draws test accuracies with their intervals below each other, a row per point."""
    names = [textwrap.fill(each.name, 48) for each in named]
    tallest = 1 + max(name.count("\n") for name in names)
    figure, [ax] = subplots((7.2, 1.3 + max(0.32, 0.08 + 0.145 * tallest) * len(named)))
    protocols = list(dict.fromkeys(protocol(each.run) for each in named))
    points, view, means = [each.point for each in named], View(), []
    for y, (_, run, point) in enumerate(named):
        p = protocol(run)
        i = protocols.index(p)
        mean, low, high = mean_interval(point, p.column)
        dots = [100 * row[p.column] for row in sound_trials(run, [point])[point["point"]]]
        look: dict[str, Any] = {"alpha": 0.6, "rasterized": len(dots) > 2000}
        if len(dots) > 1:
            ax.plot(dots, np.full(len(dots), y + 0.25), ".", color=COLORS[i], ms=4, **look)
        ax.hlines(y, low, high, color=COLORS[i], lw=1.4)
        ax.plot(mean, y, MARKERS[i], color=COLORS[i], ms=5, label=f"{p.measure} ({p.words})")
        view.add([*dots, low, high])
        means.append(mean)
    ax.set_yticks(range(len(named)), names, fontsize=8)
    ax.set(ylim=(len(named) - 0.5, -0.5), xlim=view.limits())
    ax.set_xlabel(f"{', '.join(dict.fromkeys(p.measure for p in protocols))} (%)")
    for y, mean in enumerate(means):
        if text := view.missing(mean):
            ax.text(0.01, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8)
    add_title(figure, title)
    if len(protocols) > 1:
        add_legend(figure, [ax])
    return figure, f"{title}.{interval_words(points)}{lost_words(points)}{view.words()}"
