"""Event files for TensorBoard: what they hold, and how they grow."""

import math
import struct
import sys

import in_process
import numpy as np
import pytest
from halved import halve
from test_report import make_run
from test_so_far import PARTS, Growing, Time, lock, quick, stopped_run  # noqa: F401

from mnist_jax import UserError
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.report import follow, tensorboard
from mnist_jax.runs import results

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
plugin = pytest.importorskip("tensorboardX.proto.plugin_hparams_pb2")


def read(path):
    """Returns the events of a file after the one that tells its version."""
    content, events = path.read_bytes(), []
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        events.append(event_pb2.Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    assert events[0].file_version == "brain.Event:2"
    return events[1:]


def scalars(path):
    """Returns the numbers by tag and step; no step may occur twice."""
    found = {}
    for event in read(path):
        for value in event.summary.value:
            if value.WhichOneof("value"):
                assert event.step not in found.setdefault(value.tag, {})
                found[value.tag][event.step] = value.simple_value
    return found


def hyper(path):
    """Returns the hyper-parameters of a trial, and whether it has ended."""
    contents = [
        plugin.HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in read(path)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    ]
    [start] = [x.session_start_info for x in contents if x.HasField("session_start_info")]
    named = {k: getattr(v, v.WhichOneof("kind")) for k, v in start.hparams.items()}
    return named, any(x.HasField("session_end_info") for x in contents)


def files(logdir):
    return {path.parent.name: path for path in sorted(logdir.glob("*/*/events*"))}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_trial_has_the_numbers_of_its_epochs_and_its_hyper_parameters(tmp_path, protocol):
    run = make_run(tmp_path / "run", protocol, metrics=("confidence",), **PARTS)
    said = tensorboard.write_events(tmp_path / "log", [run])
    assert said == f"TensorBoard: tensorboard --logdir {tmp_path / 'log'}"
    found = files(tmp_path / "log")
    assert len(found) == len(run.results) == 12
    assert list(found)[4] == "trial_04_hidden_sizes=8_l2=0.001_seed=1"
    p = PROTOCOLS[protocol]
    for row, path in zip(run.results, found.values(), strict=True):
        numbers = scalars(path)
        mine = [x for x in run.metrics if x["trial"] == row["trial"]]
        for split in filter(None, ("train", p.held_out)):
            for what in ("loss", "accuracy", "confidence"):
                wanted = [x[f"{split}_{what}"] for x in mine]
                assert list(numbers[f"{split}/{what}"]) == [1, 2, 3, 4, 5, 6]
                np.testing.assert_allclose(list(numbers[f"{split}/{what}"].values()), wanted, 1e-6)
        assert numbers["final/test_accuracy"] == {6: pytest.approx(row[p.column])}
        sizes = str(row["hidden_sizes"])
        named = {"hidden_sizes": sizes, "l2": row["l2"], "seed": row["seed"]}
        assert hyper(path) == (named, True)


def test_event_files_grow_with_their_run_and_nothing_is_written_twice(tmp_path):
    run, log = Growing(tmp_path / "run"), tmp_path / "log"
    run.to(2)()
    tensorboard.write_events(log, [results.read_so_far(run.path)])
    begun = {name: path.read_bytes() for name, path in files(log).items()}
    assert hyper(files(log)["trial_0_l2=0.0_seed=0"])[1] is False
    run.to(5)()
    tensorboard.write_events(log, [results.read_so_far(run.path)])
    run.end()
    tensorboard.write_events(log, [results.read_run(run.path)])
    done = {name: path.read_bytes() for name, path in files(log).items()}
    assert all(done[name].startswith(content) for name, content in begun.items())
    for path in files(log).values():
        assert list(scalars(path)["validation/loss"]) == [1, 2, 3, 4, 5, 6]
    tensorboard.write_events(log, [results.read_run(run.path)])
    assert {name: path.read_bytes() for name, path in files(log).items()} == done


def test_a_file_that_is_cut_is_mended_and_that_of_another_run_replaced(tmp_path):
    run, log = make_run(tmp_path / "run", l2=(0.0,)), tmp_path / "log"
    tensorboard.write_events(log, [run])
    before = {name: scalars(path) for name, path in files(log).items()}
    cut, other, odd = files(log).values()
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    other.write_bytes(odd.read_bytes())
    odd.write_bytes(b"\xff" * 99)
    tensorboard.write_events(log, [run])
    assert {name: scalars(path) for name, path in files(log).items()} == before
    assert cut.read_bytes()[: len(whole) // 3] == whole[: len(whole) // 3]


def test_trials_that_are_not_done_or_diverged_have_no_final_accuracy(tmp_path):
    run = stopped_run(tmp_path / "run", lambda trial: 6 if trial < 6 else 2, **PARTS)
    tensorboard.write_events(tmp_path / "log", [run])
    assert [
        "final/test_accuracy" in scalars(path) for path in files(tmp_path / "log").values()
    ] == [
        *[True] * 6,
        *[False] * 6,
    ]
    run = make_run(tmp_path / "lost", "test", l2=(0.0,), diverging=[1])
    for row in run.results:
        row["best_test_accuracy"] = math.nan if row["trial"] == 1 else 0.5
    tensorboard.write_events(tmp_path / "other", [run])
    found = [scalars(path) for path in files(tmp_path / "other").values()]
    assert ["final/test_accuracy" in numbers for numbers in found] == [True, False, True]
    assert math.isnan(found[1]["train/loss"][6])


def test_names_of_folders_do_not_change_as_further_points_begin(tmp_path):
    run = stopped_run(tmp_path / "run", lambda trial: 2 * (trial < 3), **PARTS)
    tensorboard.write_events(tmp_path / "log", [run])
    assert next(iter(files(tmp_path / "log"))) == "trial_00_hidden_sizes=8_l2=0.0_seed=0"


def test_several_runs_are_in_folders_of_their_names_and_share_one_page(tmp_path, capsys):
    make_run(tmp_path / "one", l2=(0.0, 0.1))
    make_run(tmp_path / "two", l2=(0.0,), momentum=(0.0, 0.9), name="other/name")
    log = tmp_path / "log"
    flags = f"--output={tmp_path / 'both'}", f"--tensorboard={log}"
    done = in_process.run(capsys, "report", "one", "two", *flags, cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert done.out.endswith(f"TensorBoard: tensorboard --logdir {log}\n")
    assert sorted(x.name for x in log.iterdir() if x.is_dir()) == ["made_up_one", "other_name_two"]

    def columns():
        [event] = read(log / tensorboard.FILE)
        data = event.summary.value[0].metadata.plugin_data
        experiment = plugin.HParamsPluginData.FromString(data.content).experiment
        assert [x.name.tag for x in experiment.metric_infos] == ["final/test_accuracy"]
        return [info.name for info in experiment.hparam_infos]

    assert columns() == ["l2", "momentum", "seed"]
    make_run(tmp_path / "three", l2=(0.0,), batch_size=(16, 32))
    done = in_process.run(capsys, "report", "three", f"--tensorboard={log}", cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert columns() == ["batch_size", "l2", "momentum", "seed"]


def test_tensorboard_reads_what_is_written(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = stopped_run(tmp_path / "run", lambda trial: 3)
    tensorboard.write_events(tmp_path / "log", [run])
    path = next(iter(files(tmp_path / "log").values()))
    reader = accumulator.EventAccumulator(str(path.parent))
    reader.Reload()
    read_back = [(x.step, x.value) for x in reader.Scalars("validation/loss")]
    wanted = [x["validation_loss"] for x in run.metrics if x["trial"] == 0]
    assert read_back == [(i, pytest.approx(x)) for i, x in enumerate(wanted, start=1)]


def test_followed_runs_have_event_files_that_grow(tmp_path, lock, monkeypatch, capsys, quick):  # noqa: F811
    run, log, sizes = Growing(tmp_path / "run"), tmp_path / "log", []
    run.to(1)()
    lock(run.path)

    def note():
        sizes.append(len(scalars(files(log)["trial_0_l2=0.0_seed=0"])["train/loss"]))

    clock = Time(
        [note, run.to(2), *[lambda: None] * 3, note, run.to(3), *[lambda: None] * 4, run.end]
    )
    monkeypatch.setattr(follow, "time", clock)
    monkeypatch.setattr(follow, "SHARE", math.inf)
    clock.process_time = lambda: 0.0
    flags = "--follow", f"--tensorboard={log}"
    done = in_process.run(capsys, "report", str(run.path), *flags, cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    note()
    assert sizes == [1, 2, 6]
    assert done.out.count("TensorBoard:") == 1


def test_folders_that_are_none_and_a_missing_package_are_refused(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    (tmp_path / "file").touch()
    for name, said in (("run", "holds a run"), ("file", "is a file")):
        with pytest.raises(UserError, match=f"{name}: {said}; expected a folder of its own"):
            tensorboard.check_logdir(str(tmp_path / name))
    with pytest.raises(UserError, match="cannot be written"):
        tensorboard.write_events(tmp_path / "file", [run])
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="not installed; pip install tensorboardX"):
        tensorboard.check_logdir(str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_what_halving_stopped_has_an_end_and_no_test_accuracy(tmp_path):
    made = make_run(tmp_path / "run", "validation", l2=(0.0, 0.1, 0.2, 0.3), num_epochs=(3,))
    run = halve(made)
    tensorboard.write_events(tmp_path / "logs", [run])
    written = files(tmp_path / "logs")
    assert len(written) == 12
    for path, row in zip(written.values(), run.results, strict=True):
        found = scalars(path)
        assert (tensorboard.FINAL in found) is (not row["stopped_epoch"])
        assert len(found["train/loss"]) == (row["stopped_epoch"] or 3)
        assert hyper(path)[1]
