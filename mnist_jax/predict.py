"""What a trained network of a finished run says of one's own pictures.

    python -m mnist_jax.predict DIR IMAGE ... [--trial=N] [--invert|--noinvert] [--json]

DIR is the work directory of a finished run. A picture may be of any format that Pillow opens and of
any size. It is brought to the form of the run's images: for digits of MNIST's kind, what is drawn
is cropped and put in the middle as theirs; else the whole is resized. No data set is needed.
"""

import numpy as np
from absl import flags

from mnist_jax import UserError, cli, disk
from mnist_jax.data import fitting
from mnist_jax.data.readers import pictures
from mnist_jax.runs import results
from mnist_jax.runs.labels import label, varying
from mnist_jax.runs.trained_trial import TrainedTrial, read_trained_trial
from mnist_jax.text import first_of, one_line, text_table

SHOWN = 3  # classes


def main(argv: list[str]) -> None:
    """Prints the classes of the pictures that the command line names."""
    if "data_dir" in cli.refuse_flags_of_runs("a prediction"):
        raise UserError("--data_dir: a prediction needs no data set; leave it out")
    if len(argv) < 3:
        expected = "the directory of a finished run, and one picture or more"
        raise UserError(f"{len(argv) - 1} arguments: expected {expected}; see --help")
    trained = read_trained_trial(disk.local_path(argv[1]), cli.FLAGS.trial)
    if trained.takes_floats:
        raise UserError(
            f"{argv[1]}: its images are floats, which no picture is; give arrays to predict of"
            " mnist_jax.load(DIR).best in Python"
        )
    names, dataset = argv[2:], trained.run.summary["dataset"]
    fitted = [
        fitting.fit(
            pictures.read_any(disk.local_path(name)),
            trained.image_shape,
            dataset,
            cli.FLAGS.invert,
        )
        for name in names
    ]
    probabilities = trained.predict(np.stack([image for image, _ in fitted]))
    show = _as_json if cli.FLAGS.json else _as_table
    print(show(trained, names, probabilities, [done for _, done in fitted]))


def _as_json(
    trained: TrainedTrial, names: list[str], probabilities: np.ndarray, done: list[str]
) -> str:
    classes = trained.class_names
    found = [
        {
            "file": name,
            "class": classes[row.argmax()],
            "probabilities": dict(zip(classes, row.tolist(), strict=True)),
            "picture": words,
        }
        for name, row, words in zip(names, probabilities, done, strict=True)
    ]
    return disk.to_json(found, indent=2)


def _as_table(
    trained: TrainedTrial, names: list[str], probabilities: np.ndarray, done: list[str]
) -> str:
    run, row = trained.run, trained.row
    what = label(row, varying(run.summary["grid"]))
    protocol = results.protocol(run)
    title = (
        f"trial {trained.number} of {one_line(run.config['name'])} on {run.summary['dataset']}"
        f" ({what + ', ' if what else ''}seed {row['seed']}):"
        f" {protocol.measure} {100 * row[protocol.column]:.2f} %"
    )
    rows, by_words = [], dict[str, list[str]]()
    for name, found, words in zip(map(one_line, names), probabilities, done, strict=True):
        best, *others = np.argsort(-found, kind="stable")[:SHOWN]
        classes = [one_line(trained.class_names[i]) for i in (best, *others)]
        after = (f"{c} {found[i]:.3f}" for c, i in zip(classes[1:], others, strict=True))
        rows.append([name, classes[0], f"{found[best]:.3f}", ", ".join(after)])
        by_words.setdefault(words, []).append(name)
    table = text_table(["file", "class", "probability", "next"], rows, left=(0, 1, 3))
    notes = [f"{first_of(files, 3)}: {words}" for words, files in by_words.items()]
    return "\n".join([title, "", table, "", *notes])


def define_flags() -> None:
    """Defines the program's flags, and those of `main`, which it refuses by name."""
    cli.define_flags()
    cli.define_trial()
    flags.declare_key_flag("trial")
    flags.DEFINE_bool(
        "invert",
        None,
        "Whether dark and light are exchanged; by default where a picture has light ground and the"
        " data set is known to have dark ground, as MNIST has.",
    )
    flags.DEFINE_bool("json", False, "Whether JSON is printed, with the probability of each class.")


if __name__ == "__main__":
    cli.run_command(main, define_flags)
