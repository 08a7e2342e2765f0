"""A run with halving, made of one that trained everything to the end."""

import json

import numpy as np

from mnist_jax import disk
from mnist_jax.arrays import npz_bytes
from mnist_jax.config.experiment import read_experiment
from mnist_jax.report import reading
from mnist_jax.runs import choosing, halving, records, summaries, workdirs


def halve(run, number=3, min_epochs=1):
    """Takes from a finished run's directory what halving would not have trained; reads the rest."""
    path, p = run.workdir, run.summary["protocol"]
    config = run.config | {"halving": number, "min_epochs": min_epochs}
    disk.write_text(path / "config.json", disk.to_json(config))
    experiment = read_experiment(str(path / "config.json"), {})
    names = records.trial_rows(experiment.points, experiment.seeds, run.summary["dataset"])
    _, stopped, *_ = halving.read_stages(path, experiment, names)
    ends = {row["trial"]: row["stopped_epoch"] for row in stopped}
    by_trial = {row["trial"]: row for row in stopped}
    rows = []
    for whole in run.results:
        row = dict(whole)
        if whole["trial"] in by_trial:
            row |= {key: by_trial[whole["trial"]][key] for key in whole}
        named = list(row)
        place = named.index("diverged_epoch") + 1
        end = {"stopped_epoch": ends.get(whole["trial"], 0)}
        rows.append({k: row[k] for k in named[:place]} | end | {k: row[k] for k in named[place:]})
    records.write_results(path, rows)
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [x for x in lines if _is_kept(json.loads(x), ends)]
    (path / "metrics.jsonl").write_text("".join(kept))
    chosen = choosing.choose_trial(rows, p)["trial"]
    with np.load(path / "chosen_trial.npz") as file:
        arrays = dict(file) | {"trial": np.asarray(chosen)}
    disk.write_bytes(path / "chosen_trial.npz", npz_bytes(arrays))
    summary = run.summary
    made, more = summary["provenance"], {key: summary[key] for key in ("data",) if key in summary}
    more["run"] = workdirs.digest(config, made["data_checksum"])
    summaries.write_summary(
        path, rows, run.axes, p, summary["dataset"], summary["num_images"], made, **more
    )
    return reading.read_run(path)


def _is_kept(row, ends):
    return row["epoch"] <= (ends.get(row["trial"]) or row["epoch"])
