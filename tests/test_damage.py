"""Files of runs, damaged in many ways: a line tells of it, or the result is sound."""

import contextlib
import io
import itertools
import json
import os
import random
import re
import shutil

import numpy as np
import pytest
from server import ROOT
from test_report import make_run
from test_shards import make_shards

from mnist_jax import UserError
from mnist_jax.config.experiment import read_experiment
from mnist_jax.report import epochs, one_run, reading, saving, tables
from mnist_jax.report.figures import canvas, curves
from mnist_jax.runs import chosen_trial, groups, records, runner, shards, workdirs
from mnist_jax.runs.provenance import Process

RECORDS = ("config.json", "summary.json", "results.csv", "metrics.jsonl", "chosen_trial.npz")
VALUES = (
    *(None, True, False, 0, 1, -1, 0.5, 2**31, 2**53, 2**63 - 1, 2**63, -(10**400), 1e308),
    *(float("nan"), float("inf"), "", "x", "\n", "\0", "\ud800", "../x", "n" * 9999, "1/1"),
    *([], {}, [[]], [0], [None], [{}], {"x": 1}, [[[[[[1]]]]]], ["0/3"], [1e999] * 3),
)
DEEP = "[" * 50 + "]" * 50


NUM = int(os.environ.get("DAMAGES", "40"))  # of each kind of run

# --- damage to any file ---


def cut(content, rng):
    return content[: rng.randrange(len(content))]


def flip(content, rng):
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 9))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def insert(content, rng):
    extra = (
        bytes(9),
        b"\xff",
        b"\n",
        b'"',
        b",",
        b"[",
        b"9" * 5000,
        bytes(2**21),
        b'{"trial": 0,' * 999,
    )
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice(extra) + content[place:]


def replace(content, rng):
    return rng.choice((b"", b"\n", b"{}", b"[]", b"null", b"PK\5\6" + bytes(18), rng.randbytes(99)))


def lines(content, rng):
    there = content.splitlines(keepends=True)
    place = rng.randrange(len(there))
    match rng.randrange(3):
        case 0:
            del there[place]
        case 1:
            there.insert(place, there[place])
        case 2:
            rng.shuffle(there)
    return b"".join(there)


def number(content, rng):
    """Replaces a number in text."""
    found = list(re.finditer(rb"(?<![\w.])-?\d+(\.\d+)?", content))
    if not found:
        return b""
    match = rng.choice(found)
    numbers = (
        b"-1",
        b"0",
        b"7",
        b"1e400",
        b"nan",
        b"inf",
        b"NaN",
        b"1" + b"0" * 30,
        b"9" * 5000,
        b"1_0",
    )
    return content[: match.start()] + rng.choice(numbers) + content[match.end() :]


# --- damage to files of one kind ---


def places(value):
    """Yields every container in JSON, with every key of it."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(pairs):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def json_value(content, rng):
    whole = [json.loads(content)]
    for _ in range(rng.choice((1, 1, 3))):
        container, key = rng.choice(list(places(whole)))
        match rng.randrange(6):
            case 0 if container is not whole:
                del container[key]
            case 1:
                container[key] = "DEEP"
            case _:
                container[key] = rng.choice(VALUES)
    return json.dumps(whole[0]).replace('"DEEP"', DEEP).encode()


def row_value(content, rng):
    there = content.splitlines(keepends=True)
    place = rng.randrange(len(there))
    there[place] = json_value(there[place], rng) + b"\n"
    return b"".join(there)


def cell(content, rng):
    rows = [line.split(",") for line in content.decode().splitlines()]
    column = rng.randrange(len(rows[0]))
    texts = ("", "x", "nan", "inf", "-1", "0", "1" + "0" * 30, "\0", '"', "1.5", "9" * 9999)
    match rng.randrange(4):
        case 0:
            rows = [row[:column] + row[column + 1 :] for row in rows]
        case 1:
            rows = [[*row, "1"] for row in rows]
        case _:
            rng.choice(rows)[column] = rng.choice(texts)
    return "\n".join(map(",".join, [*rows, ""])).encode()


def member(content, rng):
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    name = rng.choice(list(arrays))
    array = arrays.pop(name)
    match rng.randrange(5):
        case 0:
            arrays[name] = array.astype(rng.choice(("f2", "i8", "c8", "U3", "?")))
        case 1:
            arrays[name] = array.reshape(1, *array.shape)
        case 2:
            arrays[name] = array.ravel()[:0]
        case 3:
            arrays[name] = np.full_like(array, rng.choice((0, 9, 200)))
    buffer = io.BytesIO()
    rng.choice((np.savez, np.savez, np.savez_compressed))(buffer, **arrays)
    return buffer.getvalue()


SPECIAL = {"csv": cell, "json": json_value, "jsonl": row_value, "npz": member}


def damage(path, rng):
    """Damages a file, and says how."""
    if rng.random() < 0.15:
        path.unlink()
        match rng.randrange(6):
            case 0:
                path.mkdir()
            case 1:
                os.mkfifo(path)
            case 2:
                path.symlink_to("nowhere")
            case 3:
                path.symlink_to(path.name)
            case 4:
                path.symlink_to("/dev/zero")
        return f"{path.name} is {path.lstat().st_mode if os.path.lexists(path) else 'missing'}"
    special = SPECIAL[path.suffix[1:]]
    change = rng.choice((cut, flip, insert, replace, lines, number, special, special, special))
    path.write_bytes(change(path.read_bytes(), rng))
    return f"{path.name}: {change.__name__}"


@contextlib.contextmanager
def sound_or_one_line(said):
    """Fails where anything but a line comes of damage."""
    try:
        yield
    except IsADirectoryError:
        pass  # main tells of it, and nothing is lost
    except UserError as error:
        if "\n" in str(error) or len(str(error)) > 5000:
            raise AssertionError(f"{said}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{said}: {type(error).__name__}: {error}") from error


def copies(run, folder, num, names, rng):
    """Yields damaged copies of a run."""
    for i in range(num):
        copy = folder / f"copy_{i}"
        shutil.copytree(run, copy)
        name = names[i % len(names)]
        yield copy, damage(copy / name, rng)
        shutil.rmtree(copy)


@pytest.fixture
def undrawn(monkeypatch):
    """Makes reports without the figures, which take long, but reads what they are drawn from."""

    def read(folder, drawn):
        for draw in drawn.values():
            if draw.func is curves.draw_curves:
                run, what = draw.args
                grid = run.summary["grid"]
                trials = canvas.sound_trials(run, grid)
                epochs.read_curves(run, grid, trials, what)
        return []

    monkeypatch.setattr(saving, "save_figures", read)


@pytest.mark.parametrize("protocol", ["test", "validation"])
def test_a_finished_run(tmp_path, undrawn, protocol):
    run = make_run(tmp_path / "run", protocol, num_epochs=(3,), diverging=(4,))
    rng, wanted = random.Random(f"finished {protocol}"), means(run)
    for copy, said in copies(run.workdir, tmp_path, NUM, RECORDS, rng):
        with sound_or_one_line(said):
            text = one_run.write_report(copy)
            assert "nan" not in text.lower(), said
            assert said.startswith("results.csv") or means(reading.read_run(copy)) == wanted, said


def means(run):
    """Returns what the table of results shows, but for intervals."""
    table = tables.results_table(run)
    shown = [i for i, (_, name) in enumerate(table.columns) if "interval" not in name]
    return [[row[i] for i in shown] for row in table.rows]


def test_shards(tmp_path, undrawn):
    _, runs = make_shards(tmp_path, num_epochs=(2,))
    rng = random.Random("shards")
    for copy, said in copies(runs[1].workdir, tmp_path, NUM // 2, RECORDS, rng):
        with sound_or_one_line(said):
            merged = tmp_path / "merged"
            shards.merge(reading.read_runs([runs[0].workdir, copy, runs[2].workdir]), merged)
            one_run.write_report(merged)
        shutil.rmtree(tmp_path / "merged", ignore_errors=True)


def test_what_may_not_be_read_is_told(tmp_path):
    run = make_run(tmp_path / "run", num_epochs=(1,), l2=(0.0,)).workdir
    user = os.geteuid()
    run.chmod(0o000)
    if user == 0:  # who may read everything
        os.seteuid(65534)
    try:
        for read in (one_run.write_report, lambda path: reading.read_runs([path])):
            with pytest.raises(UserError, match="json: Permission denied; make it readable"):
                read(run)
        with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
            saving.check_output(run)
    finally:
        os.seteuid(user)
        run.chmod(0o700)


# --- an interrupted run ---

LEFT = ("config.json", "results.csv", "metrics.jsonl", "parts.json", "processes.json")
TINY = (
    f"--config={ROOT / 'configs' / 'baseline.py'}",
    "--config.dataset=digits",
    "--config.hidden_sizes=(8,),(6,)",  # two parts
    "--config.num_epochs=3",
    "--config.num_seeds=2",
)


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """A run, and what `interrupted` makes of it."""
    path = tmp_path_factory.mktemp("trained") / "whole"
    done = server.run("main", *TINY, f"--workdir={path}", tidy=False)
    assert (done.status, done.err) == (0, "")
    return path


def interrupted(whole, copy):
    """Copies a run as it is after the first part."""
    shutil.copytree(whole, copy)
    (copy / "summary.json").unlink()
    shutil.rmtree(copy / "checkpoints/trials_2_to_3")
    (copy / "checkpoints/parts.json").write_text("[[0, 1], [2, 3]]")
    rows = (copy / "results.csv").read_text().splitlines(keepends=True)
    (copy / "results.csv").write_text("".join(rows[:3]))
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[:7]))


def test_an_interrupted_run(tmp_path, whole):
    interrupted(whole, tmp_path / "run")
    rng, experiment = random.Random("interrupted"), read_experiment(str(whole / "config.json"), {})
    names = records.trial_rows(experiment.points, experiment.seeds, experiment.dataset)
    columns = records.columns_of(experiment.protocol, list(experiment.axes))
    wanted = records.read_results(tmp_path / "run", names, columns)
    paths = [f"{'checkpoints/' * name.startswith('p')}{name}" for name in LEFT]
    for copy, said in copies(tmp_path / "run", tmp_path, NUM, paths, rng):
        with sound_or_one_line(said):
            workdirs.check_workdir(copy, experiment.record(), overwrite=False)
            Process().begin(copy, "sha256:0")
            parts = groups.read_groups(copy, [*experiment.parts.values()])
            assert sorted(itertools.chain(*parts)) == [0, 1, 2, 3], said
            there = records.trim_metrics(copy, dict.fromkeys(range(4), 3))
            assert all(0 <= epochs <= 3 for epochs in there.values()), said
            found = records.read_results(copy, names, columns)
            assert len(found) <= 2, said
            if "results.csv" not in said:
                assert found == wanted, said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("results.csv", b"mine\n", marks=pytest.mark.slow),
        pytest.param("results.csv", b"trial\n" + b"9" * 5000, marks=pytest.mark.slow),
        pytest.param("checkpoints/parts.json", b'{"a": [[]]}', marks=pytest.mark.slow),
        pytest.param("checkpoints/processes.json", b"[3]", marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_with_what_is_sound(server, whole, tmp_path, name, content):
    interrupted(whole, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    done = server.run("main", *TINY, f"--workdir={tmp_path / 'run'}")
    assert done.status == 0, done.err
    num_warnings = int("processes" not in name)
    assert done.err.count("\n") == done.err.count("warning: ") == num_warnings
    for same in ("config.json", "metrics.jsonl", "results.csv", "chosen_trial.npz"):
        assert (tmp_path / "run" / same).read_bytes() == (whole / same).read_bytes()


def test_weights_that_cannot_be_read_back_are_not_made_for_ever(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(chosen_trial, "trial_of_weights", lambda workdir: None)
    tiny = {"dataset": "digits", "num_epochs": "1", "hidden_sizes": "2"}
    asked = read_experiment(str(ROOT / "configs" / "baseline.py"), tiny)
    trials = runner.Runner(tmp_path, asked, asked.load_data(None))
    trials.train()
    assert [row["trial"] for row in trials.rows] == [0]
    out, err = capsys.readouterr()
    assert out.count("reading the weights of trial 0 again") == 1
    assert err == "warning: the weights of trial 0 cannot be read back; the report lacks them\n"


@pytest.mark.parametrize("name", ["results.csv", "chosen_trial.npz"])
def test_a_folder_in_place_of_a_file_is_told_before_training(server, whole, tmp_path, name):
    interrupted(whole, tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / name / "mine").mkdir(parents=True)
    done = server.run("main", *TINY, f"--workdir={tmp_path / 'run'}")
    assert (done.status, done.out) == (2, "")
    assert f"{name} is a folder" in done.err
