"""Runs that differ in seeds alone become the run that had all seeds."""

import json
import shutil

import pytest
from server import snapshot
from test_growth import assert_same, prepare, run
from test_report import make_run
from test_resume import share_programs  # noqa: F401
from test_shards import TINY
from test_shards import assert_same as assert_same_files

from mnist_jax.report import one_run, reading, several_runs
from mnist_jax.runs import chosen_trial, pooling, shards, weights


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """JAX is set up already, and data is made up."""
    prepare(monkeypatch)
    monkeypatch.setattr(shards, "start_jax", lambda *_: None)


GRID = {"l2": "0,0.1", "batch_size": "16,32"}


def pool(path, *names):
    pooling.pool(reading.read_runs([path / name for name in names]), path / "pooled")
    return path / "pooled"


@pytest.mark.parametrize("keep", [pytest.param("chosen", marks=pytest.mark.slow), "all"])
def test_the_files_are_those_of_the_run_with_all_seeds(tmp_path, keep):
    """Given in any order; what of them is chosen may be in any, or weights of all are kept."""
    grid = GRID | {"keep_weights": keep}
    run(tmp_path / "a", num_seeds=2, **grid)
    run(tmp_path / "b", seed="9,3", **grid)
    run(tmp_path / "c", seed="5", **grid)
    whole = tmp_path / "whole"
    run(whole, seed="0,1,3,5,9", **grid)
    pooled = pool(tmp_path, "b", "c", "a")
    summary = json.loads((pooled / "summary.json").read_text())
    if missing := summary.pop("chosen_trial_missing", None):  # no run of them chose it
        assert keep == "chosen"
        assert "has not kept the weights of its trial " in missing
        (pooled / "summary.json").write_text(json.dumps(summary))
        (whole / "chosen_trial.npz").unlink()
    assert_same(pooled, whole)
    assert len(weights.kept(pooled)) == (20 if keep == "all" else 0)
    made = reading.read_run(pooled).summary["provenance"]
    assert list(made["pooled"]) == ["0, 1", "9, 3", "5"]


@pytest.mark.parametrize("lost", [False, True])
def test_the_weights_come_from_the_run_that_has_them(tmp_path, monkeypatch, lost):
    for name, seed in (("a", "0"), ("b", "1")):
        run(tmp_path / name, seed=seed)
    run(tmp_path / "whole", num_seeds=2)
    chosen = int(chosen_trial.read_chosen_trial(tmp_path / "whole")["trial"])
    if lost:
        (tmp_path / "ab"[chosen] / "chosen_trial.npz").unlink()
    pooled = pool(tmp_path, "a", "b")
    if lost:
        missing = reading.read_run(pooled).summary["chosen_trial_missing"]
        assert missing == (
            f"{tmp_path}/{'ab'[chosen]} has not kept the weights of its trial 0, as"
            " keep_weights=all does"
        )
    else:
        wanted = (tmp_path / "whole/chosen_trial.npz").read_bytes()
        assert (pooled / "chosen_trial.npz").read_bytes() == wanted


@pytest.mark.slow
def test_a_pooled_run_grows(tmp_path, capsys):
    run(tmp_path / "a", num_seeds=2, **GRID)
    run(tmp_path / "b", seed="7", **GRID)
    pooled = pool(tmp_path, "a", "b")
    seconds = reading.read_run(pooled).summary["provenance"]["pooled"]
    run(pooled, seed="7,8,0,1", **GRID)
    assert "holds 12 of these 16 trials" in capsys.readouterr().out
    run(tmp_path / "whole", seed="7,8,0,1", **GRID)
    assert_same(pooled, tmp_path / "whole")
    made = reading.read_run(pooled).summary["provenance"]
    by_process = made["seconds_by_process"]
    assert by_process[:2] == [record["seconds"] for record in seconds.values()]


def test_what_cannot_be_pooled(tmp_path):
    def made(name, **changes):
        return make_run(tmp_path / name, l2=(0.0,), num_epochs=(1,), **changes)

    first = made("a", seeds=2)

    def other(folder, **changes):
        run = shutil.copytree(first.workdir, tmp_path / folder)
        config = json.loads((run / "config.json").read_text()) | changes
        rows = [row | {"seed": row["seed"] + 10} for row in first.results]
        return first._replace(workdir=run, config=config, results=rows)

    second = other("b", seed=10)
    assert pooling.can_pool([first, second])
    assert not pooling.can_pool([first])
    assert not pooling.can_pool([first, first])  # the same seeds
    assert pooling.can_pool([first, other("c", seed=10, name="another")])
    assert not pooling.can_pool([first, other("d", seed=10, shard="0/2")])
    assert not pooling.can_pool([first, second._replace(results=second.results[1:])])
    summary = first.summary | {"provenance": first.summary["provenance"] | {"data_checksum": "x"}}
    assert not pooling.can_pool([first, second._replace(summary=summary)])


@pytest.mark.slow
def test_the_command_pools_and_says_so(server, tmp_path):
    flags = [word for word in TINY if not word.startswith(("--seed", "--config.num_seeds"))]
    for name, seeds in (("a", "29,30"), ("b", "31,32"), ("whole", "29,30,31,32")):
        more = (f"--seed={seeds}", "--config.keep_weights=all", f"--workdir={tmp_path / name}")
        done = server.run("main", *flags, *more)
        assert (done.status, done.err) == (0, "")
    done = server.run("report", tmp_path / "b", tmp_path / "a", cwd=tmp_path, draw=True)
    [folder] = (tmp_path / "runs/baseline").iterdir()
    assert (done.status, done.err) == (0, "")
    assert folder.name.endswith("Z_pooled")
    said = (
        f"2 runs that differ in seeds alone are pooled into one in {folder.relative_to(tmp_path)}"
    )
    assert done.out.startswith(f"{said}\n\nbaseline on digits: ")
    names = ("config.json", "metrics.jsonl", "results.csv", "chosen_trial.npz")
    assert_same_files(folder, tmp_path / "whole", names)
    page = (folder / "report.md").read_text()
    assert "To repeat its 2 runs:" in page
    assert "To pool them, with the directories that they print:" in page
    assert "Added up over the runs." in page


def test_runs_that_share_a_seed_are_compared_and_not_told_to_pool(tmp_path):
    runs = [
        make_run(tmp_path / name, l2=(0.0,), seeds=seeds) for name, seeds in (("a", 3), ("b", 4))
    ]
    assert not pooling.can_pool(runs)
    several_runs.write_comparison(runs, tmp_path / "c")
    assert "pool them" not in (tmp_path / "c/report.md").read_text()
    before = snapshot(tmp_path)
    assert one_run.describe(runs[0].workdir)
    assert snapshot(tmp_path) == before
