"""Shards of a run, trained and made up, put together: the files of the whole run."""

import contextlib
import json
import shutil
from pathlib import Path

import own
import pytest
from server import ROOT, snapshot
from test_report import make_run, own_data

from mnist_jax import UserError, disk
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.report import one_run, reading, saving, sections, several_runs
from mnist_jax.runs import made_files, provenance, records, shards, summaries, workdirs

EXACT = ("config.json", "metrics.jsonl", "results.csv")
TINY = (
    f"--config={ROOT / 'configs' / 'baseline.py'}",
    "--config.dataset=digits",
    "--config.hidden_sizes=(8,),(6,)",  # two programs
    "--config.momentum=0.8,0.9",
    "--config.learning_rate=0.5",
    "--config.num_epochs=4",
    "--config.protocol=validation",
    "--config.num_validation=200",
    "--config.num_seeds=4",
    # Here the trial chosen among all is not the one that its shard chose, neither is it the first
    # of its program there, and its best epoch is not the last.
    "--seed=29,30,31,32",
)


# --- trained ---


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory):
    """The whole run, and its three shards, made from the record of the whole or of the first."""
    path = tmp_path_factory.mktemp("trained")
    whole, first = (f"--config={path / name / 'config.json'}" for name in ("whole", "s0"))
    for name, flags in (
        ("whole", TINY),
        ("s0", (whole, "--shard=0/3")),
        ("s1", (first, "--shard=1/3")),
        ("s2", (*TINY, "--shard=2/3")),
    ):
        done = server.run("main", *flags, f"--workdir={path / name}")
        assert (done.status, done.err) == (0, "")
    return path


def merged(server, folder, *names):
    """Puts shards together by the command, in any order."""
    output = folder / "merged"
    done = server.run("report", *(folder / name for name in names), f"--output={output}")
    assert (done.status, done.err) == (0, "")
    return output


def assert_same(path, whole, names):
    for name in names:
        assert (path / name).read_bytes() == (whole / name).read_bytes(), name
    first, second = (json.loads((x / "summary.json").read_text()) for x in (path, whole))
    assert list(first) == list(second)
    for key in first.keys() - {"provenance"}:
        assert first[key] == second[key], key


def test_shards_make_the_files_of_the_whole_run(server, trained):
    for i in range(3):
        rows = reading.read_run(trained / f"s{i}").results
        assert [row["trial"] for row in rows] == list(range(i, 16, 3))
    path = merged(server, trained, "s2", "s0", "s1")
    assert_same(path, trained / "whole", (*EXACT, "chosen_trial.npz"))


def test_the_chosen_weights_are_found_in_a_checkpoint(server, trained, tmp_path):
    for i in range(3):
        shutil.copytree(trained / f"s{i}", tmp_path / f"s{i}")
        (tmp_path / f"s{i}" / "chosen_trial.npz").unlink()
    path = merged(server, tmp_path, "s0", "s1", "s2")
    assert_same(path, trained / "whole", ("chosen_trial.npz",))


@pytest.mark.parametrize(
    "lost",
    [
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("*", "*/*/manifest.json")),
        "*/4/manifest.json",
    ],
)
def test_without_sound_checkpoints_the_report_says_so(server, trained, tmp_path, lost):
    for i in range(3):
        shutil.copytree(trained / f"s{i}", tmp_path / f"s{i}")
        (tmp_path / f"s{i}" / "chosen_trial.npz").unlink()
        for path in tmp_path.glob(f"s{i}/checkpoints/{lost}"):
            shutil.rmtree(path) if path.is_dir() else path.write_text("")
    paths = [tmp_path / f"s{i}" for i in range(3)]
    done = server.run("report", *paths, f"--output={tmp_path / 'm'}")
    assert done.status == 0
    assert not (tmp_path / "m/chosen_trial.npz").exists()
    if lost == "*":
        text = one_run.write_report(tmp_path / "m")
        assert "Pictures of the chosen trial are left out:" in text
        assert "holds no sound checkpoint of the last epoch." in " ".join(text.split())
        assert not (tmp_path / "m/figures/first_layer.png").exists()
        assert (tmp_path / "m/figures/accuracy_curves.png").exists()


# --- trained, with what is one's own ---

OWN = (
    f"--config={ROOT / 'configs' / 'baseline.py'}",
    *own.KEYS,
    "--config.dataset=digits",
    "--config.dropout=0.3,0",
    "--config.ema_decay=0.9,0",
    "--config.metrics=brier_score",
    "--config.protocol=validation",
    "--config.num_epochs=3",
)


@pytest.fixture(scope="module")
def own_trained(server, tmp_path_factory):
    """The whole run and its two shards; the files that they are made with are gone by now."""
    path = own.write(tmp_path_factory.mktemp("own"))
    for name, flag in (("whole", "--shard=0/1"), ("s0", "--shard=0/2"), ("s1", "--shard=1/2")):
        done = server.run("main", *OWN, flag, f"--workdir={path / name}", cwd=path, optimize=True)
        assert (done.status, done.err) == (0, "")
    for file in path.glob("*.py"):
        file.unlink()
    return path


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["kept", "in checkpoints"])
def test_shards_of_what_is_ones_own_make_the_whole_run(server, own_trained, tmp_path, weights):
    for name in ("s0", "s1"):
        path = shutil.copytree(own_trained / name, tmp_path / name)
        if weights != "kept":
            (path / "chosen_trial.npz").unlink()
    paths, output = [tmp_path / "s1", tmp_path / "s0"], tmp_path / "merged"
    done = server.run(
        "report", *paths, f"--output={output}", draw=True, cwd=tmp_path, optimize=True
    )
    assert (done.status, done.err) == (0, "")
    assert "epoch chosen on validation images" in done.out
    copies = ("files/my_net.py", "files/my_opt.py")
    assert_same(output, own_trained / "whole", (*EXACT, "chosen_trial.npz", *copies))
    files = reading.read_run(output).summary["provenance"]["files"]
    assert {name: file["path"] for name, file in files.items()} == {
        "my_net.py": "my_net.py",
        "my_opt.py": "my_opt.py",
    }


@pytest.mark.slow
def test_shards_of_different_files_are_refused_by_name(own_trained, tmp_path):
    first, second = reading.read_runs([own_trained / "s0", own_trained / "s1"])
    other = second.config | {"files": second.config["files"] | {"my_net.py": "another"}}
    files = first.config["files"]
    refused(
        [first, second._replace(config=other)],
        tmp_path,
        f"not shards of one run, since they differ in my_net.py ({files['my_net.py'][:60]}, anoth",
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_copy_that_a_shard_has_lost_is_told_where_it_is_needed(own_trained, tmp_path, number):
    """The first shard's serve the whole run, and the chosen trial is the second's."""
    assert reading.read_run(own_trained / "whole").summary["chosen_trial"] % 2 == 1
    for name in ("s0", "s1"):
        (shutil.copytree(own_trained / name, tmp_path / name) / "chosen_trial.npz").unlink()
    (tmp_path / f"s{number}" / "files" / "my_opt.py").write_text("x = 1")
    runs = reading.read_runs([tmp_path / "s0", tmp_path / "s1"])
    said = f"{tmp_path}/s{number}/files/my_opt.py: it has changed since the run began (SHA-256"
    if number == 0:
        refused(runs, tmp_path, said)
    else:
        shards.merge(runs, tmp_path / "merged")
        merged = reading.read_run(tmp_path / "merged")
        assert merged.summary["chosen_trial_missing"].startswith(said)


# --- made up ---


def split(run, n, name="shard"):
    """Writes the shards of a run, as each would leave them."""
    found = []
    for i in range(n):
        path = run.workdir.with_name(f"{name}_{i}")
        path.mkdir()
        rows = [row for row in run.results if row["trial"] % n == i]
        p, made = run.summary["protocol"], dict(run.summary["provenance"])
        axes = {x["point"]: x for x in run.summary["grid"]}
        rows = [row | {k: axes[row["point"]][k] for k in run.axes} for row in rows]
        lines = (run.workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
        mine = "".join(line for line in lines if json.loads(line)["trial"] % n == i)
        (path / "metrics.jsonl").write_text(mine)
        records.write_results(path, rows)
        config = run.config | {"shard": f"{i}/{n}"}
        disk.write_text(path / "config.json", disk.to_json(config, indent=2))
        made["command"] = f"python -m mnist_jax.main --shard={i}/{n}"
        dataset, num_images = run.summary["dataset"], run.summary["num_images"]
        summaries.write_summary(path, rows, run.axes, p, dataset, num_images, made)
        shutil.copy(run.workdir / "chosen_trial.npz", path)
        found.append(reading.read_run(path))
    return found


def make_shards(path, n=3, **options):
    run = make_run(path / "whole", **options)
    return run, split(run, n)


@pytest.mark.parametrize("n", [2, 5, 12])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_whatever_diverges(tmp_path, protocol, n):
    whole, runs = make_shards(
        tmp_path,
        n,
        protocol=protocol,
        num_epochs=(3, 2),
        l2=(0.0, 1e-3),
        nesterov=(False,),
        hidden_sizes=((8,),),
        diverging=[4],
    )
    shards.merge(runs[::-1], tmp_path / "merged")
    assert_same(tmp_path / "merged", whole.workdir, (*EXACT, "chosen_trial.npz"))


def test_rows_are_put_in_order_where_memory_split_a_program(tmp_path):
    whole, runs = make_shards(tmp_path, num_epochs=(3, 2))
    for run in runs:
        path = run.workdir / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(sorted(lines, key=lambda line: json.loads(line)["trial"])))
        assert path.read_text() != "".join(lines)
    shards.merge(runs, tmp_path / "merged")
    assert_same(tmp_path / "merged", whole.workdir, EXACT)


def test_provenance_tells_what_differs(tmp_path):
    whole, runs = make_shards(tmp_path)
    runs[1].summary["provenance"]["devices"] = {"platform": "gpu"}
    shards.merge(runs, tmp_path / "merged")
    made = reading.read_run(tmp_path / "merged").summary["provenance"]
    assert made["versions"] == whole.summary["provenance"]["versions"]
    assert made["seconds"]["train"] == 9.0
    assert "devices" not in made
    assert [x["devices"]["platform"] for x in made["shards"].values()] == ["cpu", "gpu", "cpu"]
    text = one_run.write_report(tmp_path / "merged")
    assert "WARNING" not in text
    page = (tmp_path / "merged/report.md").read_text()
    for i in range(3):
        assert f"    python -m mnist_jax.main --shard={i}/3\n" in page
    assert f"    python -m mnist_jax.report {runs[0].workdir} {runs[1].workdir} " in page
    assert "shards: 1/3: devices: platform | gpu" in page
    assert "Added up over the shards" in page


@pytest.mark.slow
@pytest.mark.parametrize("key", ["commit", "versions", "environment"])
def test_other_code_is_warned_of(tmp_path, key):
    _, runs = make_shards(tmp_path)
    runs[2].summary["provenance"][key] = {"JAX_ANOTHER": "another"}
    shards.merge(runs, tmp_path / "merged")
    one_run.write_report(tmp_path / "merged")
    page = (tmp_path / "merged/report.html").read_text()
    assert f'class="warning">WARNING: the shards of this run differ in {key} (' in page


@pytest.mark.parametrize(("key", "warned"), [("commit", 1), ("machine", 0)])
def test_a_run_that_other_code_went_on_with_is_warned_of(tmp_path, key, warned):
    run = make_run(tmp_path / "run")
    made = run.summary["provenance"]
    now = {name: made[name] for name in ("commit", "versions", "machine")}
    noted = run.workdir / "checkpoints/processes.json"
    noted.parent.mkdir()
    noted.write_text(json.dumps([now | {key: "another"}, now, 3, {}, now | {"seconds": 1}]))
    process = provenance.Process()
    process.begin(run.workdir, "sha256:0")
    made["earlier_processes"] = process.record()["earlier_processes"]
    assert made["earlier_processes"] == {1: now | {key: "another"}}
    assert len(shards.cautions(run)) == warned
    noted.write_text('["damaged"')
    process.begin(run.workdir, "sha256:0")
    assert "earlier_processes" not in process.record()


def test_settings_that_change_results_are_warned_of():
    made = {"commit": None, "versions": {}, "environment": {"JAX_PLATFORMS": "cpu"}}
    assert provenance.cautions(made) == []

    def beside(**environment):
        return provenance.cautions(
            made | {"earlier_processes": {"1": made | {"environment": environment}}}
        )

    harmless = "--xla_dump_to=/tmp --xla_cpu_multi_thread_eigen=false"
    assert beside(JAX_COMPILATION_CACHE_DIR="/tmp", XLA_FLAGS=harmless, JAX_PROCESS_ID="1") == []
    (said,) = beside(JAX_MADE_UP="1")
    assert "processes of this run differ in environment" in said
    flags = {"environment": {"XLA_FLAGS": f"{harmless} --xla_cpu_enable_fast_math=true"}}
    shards_of = {"shards": {"0/2": made | flags, "1/2": made | flags}}
    for record in (made | flags, made | shards_of):
        (said,) = provenance.cautions(record)
        assert said.startswith(
            "WARNING: XLA_FLAGS=--xla_cpu_enable_fast_math=true was set: results"
        )
    old = {"commit": None, "versions": {}}  # which has no settings
    assert provenance.cautions(made | {"earlier_processes": {"1": old}}) == []


def test_other_cores_or_threads_are_warned_of(tmp_path, capsys):
    devices = {"platform": "cpu", "kind": "cpu", "cores": 2, "threads": "one a device"}
    for given, said in (
        (devices, ""),
        (devices, ""),
        (devices | {"cores": 4}, "had different cores"),
        (devices | {"threads": "shared by the devices"}, "had different cores and threads"),
    ):
        provenance.Process().begin(tmp_path, "sha256:0", given)
        err = capsys.readouterr().err
        assert (f"warning: the processes of this run {said} (see" in err) == bool(said)
        assert err.count("\n") == bool(said)
    gpu = devices | {"platform": "gpu", "threads": None}
    (tmp_path / "gpu").mkdir()
    for cores in (8, 16):
        provenance.Process().begin(tmp_path / "gpu", "sha256:0", gpu | {"cores": cores})
        assert capsys.readouterr().err == ""


def test_a_commit_that_cannot_be_had_says_why(monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(ROOT / "mnist_jax" / "runs" / "provenance.py"))
    assert "commit_missing" not in provenance.provenance()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    made = provenance.provenance()
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    assert made["commit"] is None
    assert "dubious ownership" in made["commit_missing"]


def refused(runs, folder, *said):
    with pytest.raises(UserError) as error:
        one_run.write_merged(runs, folder / "merged")
    assert not (folder / "merged").exists()
    assert "\n" not in str(error.value)
    for words in said:
        assert words in str(error.value)


def test_missing_shards_are_named(tmp_path):
    _, runs = make_shards(tmp_path, 5)
    refused(runs[1:3], tmp_path, "shards are missing (0/5, 3/5, 4/5)", "--shard=0/5", "all 5")


def test_a_shard_given_twice_is_refused(tmp_path):
    _, runs = make_shards(tmp_path)
    shutil.copytree(runs[1].workdir, tmp_path / "copy")
    again = reading.read_run(tmp_path / "copy")
    refused([*runs, again], tmp_path, "shard_1", "copy", "both hold shard 1/3")


def test_what_is_no_shard_of_the_run_is_refused(tmp_path):
    whole, runs = make_shards(tmp_path)
    refused([*runs, whole], tmp_path, "whole holds a whole run")
    other = runs[2]._replace(config=runs[2].config | {"seed": 7})
    refused([*runs[:2], other], tmp_path, "shard_0 and", "differ in seed (0, 7)")
    other = runs[2]._replace(config=runs[2].config | {"shard": "2/4"})
    refused([*runs[:2], other], tmp_path, "number of shards (3, 4)")
    made = runs[2].summary["provenance"] | {"data_checksum": "sha256:other"}
    other = runs[2]._replace(summary=runs[2].summary | {"provenance": made})
    refused([*runs[:2], other], tmp_path, "data files (sha256:<digits>, sha256:other)")


def test_shards_of_ones_own_data_that_differ_are_told_so_once(tmp_path):
    def shard(number, own):
        run = make_run(tmp_path / f"s{number}", own=own, seeds=4, l2=(0.0,))
        return run._replace(config=run.config | {"shard": f"{number}/2"})

    own = own_data()
    runs = [shard(0, own), shard(1, own._replace(checksum="sha256:of others"))]
    refused(runs, tmp_path, "differ in data files (sha256:of leaves, sha256:of others); name")


def test_keys_that_change_no_result_may_differ(tmp_path):
    _, runs = make_shards(tmp_path)
    for i, run in enumerate(runs):
        run.config.update(dict.fromkeys(workdirs.RESUMABLE, i))
    shards.merge(runs, tmp_path / "merged")


@pytest.mark.parametrize("damage", [lambda x: x[:-1], lambda x: [*x, x[0]], lambda x: []])
def test_damaged_rows_are_noticed_before_anything_is_written(tmp_path, damage):
    _, runs = make_shards(tmp_path)
    path = runs[1].workdir / "metrics.jsonl"
    path.write_text("".join(damage(path.read_text().splitlines(keepends=True))))
    refused(runs, tmp_path, "shard_1 cannot be read as a run: metrics.jsonl does not hold every")
    rows = [row | {"trial": row["trial"] + 3} for row in runs[0].results]
    refused([runs[0]._replace(results=rows), *runs[1:]], tmp_path, "shard_0", "results.csv")


@pytest.mark.parametrize(
    "line",
    [
        b'{"trial": 1,' * 350_000,
        b'{"trial": 1, "epoch": 1' + b"0" * 99 + b"}\n",
        b'{"trial": 1, "epoch": ' + b"[" * 99999 + b"}\n",
        b'{"trial": 1, "epoch": NaN}\n',
        b"\xff\n",
        bytes(2**22),
    ],
)
def test_a_line_that_is_no_row_is_told(tmp_path, line):
    _, runs = make_shards(tmp_path)
    with open(runs[1].workdir / "metrics.jsonl", "ab") as file:
        file.write(line)
    refused(runs, tmp_path, "shard_1 cannot be read as a run: metrics.jsonl: ")


@pytest.mark.parametrize("theirs", sorted({*made_files.FILES, *made_files.FOLDERS}))
@pytest.mark.parametrize("ours", [False, True])
def test_files_of_the_users_are_not_replaced(tmp_path, theirs, ours):
    _, runs = make_shards(tmp_path, l2=(0.0,), seeds=3, num_epochs=(1,))
    folder = tmp_path / "there"
    folder.mkdir()
    if ours:  # but a report may be made anew
        saving.write(folder, "of two runs", [])
        if theirs.startswith(("report", "figures")):
            assert saving.check_output(folder, of_run=True) == folder
            return
    if theirs in made_files.FOLDERS:
        (folder / theirs).mkdir()
    elif theirs == "results.csv":
        (folder / theirs).symlink_to("mine")  # to nowhere, but it is theirs
    else:
        (folder / theirs).write_text("mine")
    before = snapshot(folder)
    with pytest.raises(UserError, match=rf"--output={folder}: holds "):
        one_run.write_merged(runs, folder)
    assert snapshot(folder) == before


def test_a_shard_whose_name_leads_elsewhere_is_refused(tmp_path, monkeypatch):
    _, runs = make_shards(tmp_path, name="../../../escaped", l2=(0.0,), num_epochs=(1,))
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    with pytest.raises(UserError, match=r"'../../../escaped' cannot be the name of a run"):
        one_run.write_merged(runs)
    assert not list((tmp_path / "a/b").iterdir())
    assert not list(tmp_path.glob("**/escaped"))


@pytest.mark.parametrize("key", ["dataset", "shard", "l2", "num_seeds", "hidden_sizes"])
@pytest.mark.parametrize("value", ["../mnist", 10**18, [[1e300]], None])
def test_another_config_than_that_of_the_trials_is_told(tmp_path, key, value):
    _, runs = make_shards(tmp_path)
    for run in runs:
        path = run.workdir / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
        (run.workdir / "chosen_trial.npz").unlink()
    with contextlib.suppress(UserError):
        shards.merge(reading.read_runs([run.workdir for run in runs]), tmp_path / "merged")
        assert reading.read_run(tmp_path / "merged").summary["chosen_trial_missing"]


def test_the_command_tells_shards_from_runs_to_compare(server, tmp_path):
    whole, runs = make_shards(tmp_path)
    paths = [run.workdir for run in runs]
    done = server.run("report", *paths, cwd=tmp_path)
    [folder] = (tmp_path / "runs/made_up").iterdir()
    assert (done.status, done.out) == (0, f"{folder.relative_to(tmp_path)}\n")
    assert folder.name.endswith("Z_merged")
    assert_same(folder, whole.workdir, EXACT)
    for arguments, said in (
        ([whole.workdir, paths[0]], "holds a whole run"),
        ([*paths, f"--output={whole.workdir}"], "holds a run"),
        ([paths[0], "--data_dir=."], "--data_dir: only a merge of shards"),
        ([*paths, "--output="], "--output=: expected a folder"),
        ([*paths, "--shard=0/3"], "--shard: a report does not know it"),
        ([*paths, "--distributed_timeout=9"], "--distributed_timeout: a report does not know it"),
    ):
        done = server.run("report", *arguments)
        assert (done.status, done.out) == (2, "")
        assert said in done.err


def test_a_shard_alone_says_what_it_is(tmp_path):
    whole, runs = make_shards(tmp_path)
    text = one_run.write_report(runs[1].workdir)
    assert text.startswith("made_up on digits, shard 1 of 3: ")
    assert "warning: this is shard 1 alone, of 3 that are counted from 0" in text
    assert "# made_up on digits, shard 1 of 3\n" in (runs[1].workdir / "report.md").read_text()
    assert "shard" not in sections.headline(whole)
    older = {key: value for key, value in whole.config.items() if key != "shard"}
    assert shards.shard_of(older) == (0, 1)


def test_a_merged_run_may_be_compared_as_any(tmp_path):
    whole, runs = make_shards(tmp_path)
    shards.merge(runs, tmp_path / "merged")
    both = reading.read_runs([whole.workdir, tmp_path / "merged"])
    text = several_runs.write_comparison(both, tmp_path / "c")
    assert "identical results, trial by trial" in " ".join(text.split())
    assert Path(tmp_path / "c/report.html").exists()
