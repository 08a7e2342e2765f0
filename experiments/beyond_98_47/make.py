"""Searches a recipe on validation images, trains it on fresh seeds, and explains what it gained.

    python experiments/beyond_98_47/make.py [--data_dir=DIR]

Trains or resumes what is not finished in runs/beyond_98_47 (four hours on two slow cores), then
writes the tables of README.md between its markers, the figure, and the small files of each run.
"""

import sys
from pathlib import Path

from mnist_jax.report.render import markdown_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where studies.py is
import studies
import walks

HERE = Path(__file__).parent
RUNS = Path("runs/beyond_98_47")
COMMANDS = {
    "search": ("experiments/beyond_98_47/search.py", 1000),
    "refine": ("experiments/beyond_98_47/refine.py", 1100),
    "finalists": ("experiments/beyond_98_47/finalists.py", 1200),
    "final": ("configs/beyond_98_47.py", 2000),
    "walk": ("experiments/beyond_98_47/walk.py", 2000),
    "cnn_search": ("experiments/beyond_98_47/cnn_search.py", 3000),
    "cnn_finalists": ("experiments/beyond_98_47/cnn_finalists.py", 3100),
    "cnn_final": ("configs/beyond_99_19.py", 4000),
}
SEARCHED = (
    *("batch_size", "learning_rate", "schedule", "momentum"),
    *("l2", "l2_on_output", "label_smoothing"),
)
STEPS = (
    "the notebook's recipe, L2 2.5e-4",
    "learning rate falls linearly to 0",
    "64 images a step, not 128",
    "learning rate 0.8, not 0.1",
    "momentum 0.9, learning rate 0.08",
    "L2 1e-4, not 2.5e-4",
    "L2 of the output kernel too",
    "label smoothing 0.2",
)


def main() -> None:
    """Runs the study and writes its tables and its figure."""
    runs = {
        name: studies.run_once(RUNS / name, f"--config={config}", f"--seed={seed}", *sys.argv[1:])
        for name, (config, seed) in COMMANDS.items()
    }
    title = "mnist, 784-500-300-10, 40 epochs: one change at a time"
    walked = [runs["walk"], runs["final"]]
    best = {"search": 8, "refine": 12, "finalists": 4, "cnn_search": 6, "cnn_finalists": 4}
    winners = {"outcome": "final", "cnn_outcome": "cnn_final"}
    sections = {
        **{name: walks.rank(runs[name], SEARCHED, most) for name, most in best.items()},
        **{
            section: markdown_table(walks.DESCRIBED, [walks.describe(runs[name])])
            for section, name in winners.items()
        },
        "walk": walks.show(HERE / "walk.png", title, STEPS, walked, published=98.47),
        "record": studies.describe_runs(list(runs.values())),
    }
    studies.fill_in(HERE / "README.md", sections)
    for name in runs:
        studies.keep_files(RUNS / name, HERE / name)


if __name__ == "__main__":
    main()
