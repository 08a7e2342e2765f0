"""How fast training is on this machine, where a step's time goes, and how fast its peers are.

    python -m mnist_jax.benchmark --config=configs/cnn.py [--config.KEY=VALUE ...]
        [--peers=keras,keras-jax,torch,flax] [--rounds=5] [--json=FILE] [--profile=DIR]
    python -m mnist_jax.benchmark --config=configs/cnn.py [--config.KEY=VALUE ...]
        --trials=1,2,4,8,16 [--rounds=5] [--json=FILE]

The first times a step and its peers. The second times numbers of trials that train at once.
"""

import os
from pathlib import Path

from absl import flags

from mnist_jax import UserError, cli, disk
from mnist_jax.benchmark import peers, scaling, step_time
from mnist_jax.runs import workdirs

REFUSED = {
    "workdir": "has no work directory; give --json=FILE",
    "overwrite": "has no work directory; give --json=FILE",
    "shard": "chooses its trials itself; leave the flag out",
    "distributed": "is one process; leave the flag out",
    "distributed_timeout": "is one process; leave the flag out",
}
"""Flags of `main` that mean nothing here, and why."""


def main(argv: list[str]) -> None:
    """Benchmarks the experiment that the flags name."""
    experiment = cli.read_flags(argv)
    for name, why in REFUSED.items():
        if cli.FLAGS[name].present:
            raise UserError(f"--{name}={cli.FLAGS[name].value}: a benchmark {why}")
    if cli.FLAGS.trials is not None and (cli.FLAGS.peers or cli.FLAGS.profile is not None):
        trials = ",".join(cli.FLAGS.trials)
        raise UserError(f"--trials={trials}: not with --peers or --profile; leave one of them out")
    for name in cli.FLAGS.peers:
        if name not in peers.PACKAGES:
            raise UserError(
                f"--peers={name}: unknown; expected some of {', '.join(peers.PACKAGES)}"
            )
    if cli.FLAGS.peers:
        peers.check_peers_can_train(experiment.model, experiment.points[0])
    trial_counts = None
    if cli.FLAGS.trials is not None:
        trial_counts = scaling.read_trial_counts(cli.FLAGS.trials, experiment)
    file = None if cli.FLAGS.json is None else _file(cli.FLAGS.json)
    profile = None if cli.FLAGS.profile is None else _folder(cli.FLAGS.profile)
    dataset = experiment.load_data(cli.FLAGS.data_dir)
    if trial_counts:
        record = scaling.measure(scaling.Job(experiment, dataset), trial_counts, cli.FLAGS.rounds)
        print(scaling.table(record))
    else:
        record = step_time.measure(
            experiment,
            dataset,
            peers=list(dict.fromkeys(cli.FLAGS.peers)),
            rounds=cli.FLAGS.rounds,
            profile=profile,
        )
        print(step_time.table(record))
    if file is not None:
        disk.write_text(file, disk.to_json(record, indent=2) + "\n")


def _file(given: str) -> Path:
    file = disk.local_path(given, "--json")
    if file.is_dir():
        raise UserError(f"--json={given}: expected a file, not a folder; choose another")
    if not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        raise UserError(f"--json={given}: its folder cannot be written; choose another")
    return file


def _folder(given: str) -> Path:
    folder = disk.output_folder(given, "--profile")
    if reason := workdirs.why_unwritable(folder):
        raise UserError(f"--profile={given}: cannot be written ({reason}); choose another folder")
    return folder


def define_flags() -> None:
    """Defines the program's flags, and those of `main`, some of which it refuses by name."""
    cli.define_flags()
    for name in cli.SHARED:
        flags.declare_key_flag(name)
    flags.DEFINE_list("peers", [], f"Peers to time in turn with ours: {', '.join(peers.PACKAGES)}.")
    flags.DEFINE_list("trials", None, "Numbers of trials to time instead, as in 1,2,4,8,16.")
    flags.DEFINE_integer("rounds", 5, "Epochs that each implementation trains.", lower_bound=1)
    flags.DEFINE_string("json", None, "File for the result.")
    flags.DEFINE_string("profile", None, "Folder for a profiler's trace of one warm epoch.")


if __name__ == "__main__":
    cli.run_command(main, define_flags)
