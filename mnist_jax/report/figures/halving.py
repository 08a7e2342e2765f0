"""The points of a run with halving, epoch by epoch, and the rungs at which some of them stopped."""

import numpy as np

from mnist_jax.report.epochs import read_criterion
from mnist_jax.report.figures import canvas
from mnist_jax.report.figures.scales import set_share_scale
from mnist_jax.report.halving import rungs_of
from mnist_jax.report.points import criterion_words
from mnist_jax.runs.choosing import epochs_done, ranked
from mnist_jax.runs.labels import count
from mnist_jax.runs.results import Run, protocol


def draw_halving(run: Run):
    """Draws the accuracy that chooses by epoch, a line per grid point, and the rungs."""
    p, dataset, rungs = protocol(run), run.summary["dataset"], rungs_of(run)
    points = ranked(run.summary["grid"], p.criterion)[::-1]  # the best are drawn over the others
    words, size = criterion_words(p), f"{len(points)} grid points"
    figure, [ax] = canvas.subplots(f"{dataset}: {words} of {size} ({p.words})", (7.2, 5.0))
    trials, groups = canvas.sound_trials(run, points), canvas.stopped_groups(run)
    highest, drawn = canvas.highest_share(run), list[float]()
    for point, curves in zip(points, read_criterion(run, points, trials), strict=True):
        if not len(curves):
            continue
        means, stop = np.minimum(curves.mean(0), highest), point["stopped_epoch"]
        (color, name), width = groups[stop], 0.7 if stop else 1.2
        if point["point"] == run.summary["chosen_point"]:
            color, width = canvas.COLORS[1], 2.8
            name = "best so far" if run.progress else "chosen"
        line = {"label": name, "color": color, "lw": width, "rasterized": len(points) > 1000}
        ax.plot(range(1, len(means) + 1), means, marker="o", ms=2.5, markevery=[-1], **line)
        drawn += [means.min(), means.max()]
    if not drawn:
        raise canvas.NothingToDrawError("all trials diverged")
    longest = max(map(epochs_done, points))
    ax.set_xscale("log")
    ax.set_xlim(0.9, 1.1 * longest)
    ax.set_xticks(sorted({1, *(rung.epoch for rung in rungs), longest}))
    ax.set_xticks([], minor=True)
    ax.xaxis.set_major_formatter("{x:g}")
    set_share_scale(ax, drawn)
    ax.set(xlabel="epoch (log scale)", ylabel=f"mean {words} (%, log scale of errors)")
    for rung in rungs:
        ax.axvline(rung.epoch, color="black", lw=0.8, ls=":")
        text, spot = f"{rung.num_kept} of {rung.num_points}\ngo on", (rung.epoch, 1.01)
        look = {"ha": "center", "va": "bottom", "fontsize": 8}
        ax.text(*spot, text, transform=ax.get_xaxis_transform(), **look)
    canvas.add_legend(figure, [ax])
    caption = (
        f"Every grid point on {dataset}, epoch by epoch: mean {words}{' so far' * p.choose_epoch}"
        f" over {canvas.seeds_words(points)} ({p.words}). At the dotted lines, the best went on by"
        " this number, and the others stopped: what they would have reached is not known."
    )
    if lost := sum(not rows for rows in trials.values()):
        caption += f" Not drawn: {count(lost, 'point')} whose trials all diverged."
    return figure, caption + canvas.lost_words(points)
