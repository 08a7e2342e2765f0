"""How far a run is that has not finished, in words."""

from collections import Counter
from datetime import UTC, datetime

from mnist_jax.report.halving import num_stopped, stopped_words
from mnist_jax.report.points import compared, spanned_axes
from mnist_jax.runs.choosing import epochs_done, epochs_left
from mnist_jax.runs.labels import Axis, count, label, num_digits, varying
from mnist_jax.runs.results import Run
from mnist_jax.runs.unfinished import Progress

MAX_STATES = 3  # that trials are in on their way, before these are put together
_STATES = {
    True: "the run goes on",
    False: "the run was stopped, since no process on this machine works on it",
    None: "whether it still runs is not known here",
}


def standing(run: Run) -> str:
    """Says in a line that a run is not finished, whether it runs, and how far it is.

    Of a finished one there is nothing to say.
    """
    if run.progress is None:
        return ""
    sentences = [f"NOT FINISHED at {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"]
    sentences[0] += f": {_STATES[run.progress.is_running]}."
    sentences.append(f"{epochs_words(run.progress, num_stopped(run))}.")
    behind = sum(done > 0 for done in run.progress.done.values()) - len(run.results)
    if behind:
        are = "is" if behind == 1 else "are"
        which = "behind others of the same grid point and left out"
        sentences.append(f"{count(behind, 'trial')} {are} {which}.")
    return " ".join([*sentences, "Nothing here is final."])


def compared_words(run: Run) -> str:
    """Says which grid points are compared, if these are not all of the run's."""
    grid = compared(run).summary["grid"]
    if len(grid) == (run.progress.num_points if run.progress else len(run.summary["grid"])):
        return ""
    point = grid[0]
    common = [axis for axis in spanned_axes(run) if axis not in varying(grid)]
    values = label(point, [Axis(axis, num_digits([point[axis]])) for axis in common])
    values = f" ({values})" * bool(values)
    if run.progress is None:
        return f"{stopped_words(run)}{values}."
    of = f"of {run.progress.num_points} grid points"
    done = "done" if not epochs_left(point) else f"after epoch {epochs_done(point)}"
    done += values
    if len(grid) == 1:
        return f"Only 1 {of} is {done}."
    return f"Only the {len(grid)} {of} that are {done} are compared."


def epochs_words(progress: Progress, stopped: int = 0, brief: bool = False) -> str:
    """Says how many epochs the trials have done, and, unless `brief`, the share of all.

    `stopped` of the trials are done since halving stopped them.
    """
    states = Counter((progress.done[i], epochs) for i, epochs in progress.epochs.items())
    finished = sum(n for (done, epochs), n in states.items() if done == epochs)
    counted = {"done": finished - stopped, "stopped by halving": stopped}
    begun = sorted((state for state in states if 0 < state[0] < state[1]), reverse=True)
    if len(begun) <= MAX_STATES:
        counted |= {f"after epoch {done} of {n}": states[done, n] for done, n in begun}
    else:
        done, epochs = (sorted(set(numbers)) for numbers in zip(*begun, strict=True))
        last, whole = (f"{x[0]} to " * (len(x) > 1) + str(x[-1]) for x in (done, epochs))
        counted[f"after epoch {last} of {whole}"] = sum(states[state] for state in begun)
    counted["not begun"] = sum(n for (done, _), n in states.items() if not done)
    parts = [(n, words) for words, n in counted.items() if n]
    trials = count(len(progress.epochs), "trial")
    if len(parts) == 1:
        return f"{trials} {'is' if len(progress.epochs) == 1 else 'are'} {parts[0][1]}"
    listed = ", ".join(f"{n} {words}" for n, words in parts)
    share = "" if brief else f"; {100 * progress.share:.0f} % of all epochs"
    return f"{trials}: {listed}{share}"
