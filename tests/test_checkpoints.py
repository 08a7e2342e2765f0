import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from server import snapshot

from mnist_jax import UserError
from mnist_jax.runs import checkpoints, workdirs
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.training import hosts

NUM_TRIALS = 3


class State(NamedTuple):
    params: dict
    opt_state: tuple


def host_state(step):
    """A state whose numbers tell the step; one leaf is NumPy's, the others are for the devices."""
    rng = np.random.default_rng(step)
    kernel = rng.standard_normal((NUM_TRIALS, 5, 2)).astype(np.float32)
    kernel[0, 0] = np.nan, -0.0
    count = np.full(NUM_TRIALS, step, np.int32)
    return State(
        {"hidden_1": {"kernel": kernel}, "best": rng.random(NUM_TRIALS)}, (count, (), None)
    )


def sharding(num_devices):
    return NamedSharding(Mesh(np.array(jax.devices()[:num_devices]), ("trial",)), P("trial"))


def device_state(step, num_devices=2, put=jax.device_put):
    """As the sweep holds it: padded with copies of the last trial, spread over the devices."""
    state = host_state(step)
    rows = NUM_TRIALS + -NUM_TRIALS % num_devices
    by_trial = sharding(num_devices)

    def place(x):
        return put(np.pad(x, [(0, rows - len(x))] + [(0, 0)] * (x.ndim - 1), mode="edge"), by_trial)

    placed = jax.tree.map(place, state)
    placed.params["best"] = state.params["best"]
    return placed


def template(num_devices=2):
    def describe(x, by_trial):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=by_trial)

    return device_state(0, num_devices, put=describe)


def open_folder(folder, **changes):
    usual = {"run": "this", "num_trials": NUM_TRIALS, "keep": 2, "max_share": 1.0}
    return Checkpoints(folder, **usual | changes)


def save(folder, *steps, **changes):
    with open_folder(folder, **changes) as saved:
        for step in steps:
            saved.save(step, device_state(step), {"step": step, "share": 0.1})


def restore(folder, like=None):
    with open_folder(folder) as saved:
        return saved.restore(template() if like is None else like)


def assert_is(restored, step, num_devices=2):
    assert restored.step == step
    assert restored.record == {"step": step, "share": 0.1}
    expected = device_state(step, num_devices)
    assert jax.tree.structure(restored.state) == jax.tree.structure(expected)
    pairs = zip(jax.tree.leaves(restored.state), jax.tree.leaves(expected), strict=True)
    for found, wanted in pairs:
        assert type(found) is type(wanted)
        assert found.dtype == wanted.dtype
        assert getattr(found, "sharding", None) == getattr(wanted, "sharding", None)
        assert np.asarray(found).tobytes() == np.asarray(wanted).tobytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="session")
def two_saved(tmp_path_factory):
    """A folder with checkpoints 1 and 2; to be copied before it is touched."""
    folder = tmp_path_factory.mktemp("two_saved") / "checkpoints"
    save(folder, 1, 2)
    return folder


@pytest.fixture
def two(two_saved, tmp_path):
    return shutil.copytree(two_saved, tmp_path / "checkpoints")


def test_nothing_is_made_before_the_first_save(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    with open_folder(folder) as saved:
        assert saved.restore(template()) is None
    assert not any(tmp_path.iterdir())
    save(folder, 1)
    assert names(folder) == ["1"]


def test_the_newest_comes_back_bit_for_bit(two, capfd):
    assert_is(restore(two), 2)
    assert_is(restore(two, device_state(0)), 2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("num_devices", [1, 2])
def test_another_number_of_devices_may_go_on(tmp_path, num_devices):
    """Three trials are padded to four rows on two devices, and not at all on one."""
    with open_folder(tmp_path) as saved:
        saved.save(7, device_state(7, num_devices), {"step": 7, "share": 0.1})
    for others in (1, 2):
        assert_is(restore(tmp_path, template(others)), 7, others)


def test_names_are_put_in_order_as_numbers(tmp_path):
    save(tmp_path, 9, 10)
    assert_is(restore(tmp_path), 10)


def test_the_state_may_be_donated_and_overwritten_after_a_save(tmp_path):
    spoil = jax.jit(lambda state: jax.tree.map(jnp.zeros_like, state), donate_argnums=0)
    for num_devices in (1, 2):
        with open_folder(tmp_path / str(num_devices)) as saved:
            state, record = device_state(1, num_devices), {"step": 1, "share": 0.1}
            saved.save(1, state, record)
            record["step"] = 5
            best = state.params.pop("best")
            best[:] = 0
            jax.block_until_ready(spoil(state))
        assert_is(restore(tmp_path / str(num_devices), template(num_devices)), 1, num_devices)


def test_a_restored_state_may_be_donated(two):
    like = template()
    state = restore(two, like).state
    double = jax.jit(lambda x: jax.tree.map(lambda y: y * 2, x), donate_argnums=0)
    doubled = double(state.params["hidden_1"])
    expected = device_state(2).params["hidden_1"]["kernel"] * 2
    np.testing.assert_array_equal(doubled["kernel"], expected)


def damage(how, path):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "lengthened":
        path.write_bytes(content + b"0")
    elif how == "deleted":
        path.unlink()
    else:
        place = {"first": 0, "middle": len(content) // 2, "last": len(content) - 1}[how]
        flipped = bytes([content[place] ^ 1])
        path.write_bytes(content[:place] + flipped + content[place + 1 :])


@pytest.mark.parametrize(
    "how", ["cut", "emptied", "lengthened", "deleted", "first", "middle", "last"]
)
def test_a_damaged_file_makes_the_older_checkpoint_serve(two, capfd, how):
    whole = files(two / "2")
    assert len(whole) > 3
    for path in whole:
        content = path.read_bytes()
        if not content and how not in ("lengthened", "deleted"):
            continue
        damage(how, path)
        assert_is(restore(two), 1)
        out, err = capfd.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert f"{two / '2'} cannot be used" in err
        assert path.name in err or "not finished" in err
        path.write_bytes(content)
    assert_is(restore(two), 2)


def test_other_damage_makes_the_older_checkpoint_serve_too(two, capfd):
    (two / "2" / "stray").write_text("one file too many")
    assert_is(restore(two), 1)
    shutil.rmtree(two / "2")
    (two / "2").mkdir()
    assert_is(restore(two), 1)
    (two / "2").rmdir()
    (two / "2").write_text("a file where a folder should be")
    assert_is(restore(two), 1)
    (two / "2").unlink()
    shutil.copytree(two / "1", two / "2.orbax-checkpoint-tmp")
    for name in ("nonsense", "1e3", "-4", "007", "3 ", "3.manifest", "\u0663", ".7"):
        (two / name).mkdir()
    assert_is(restore(two), 1)
    err = capfd.readouterr().err
    assert err.count("\n") == 3
    assert "stray" in err
    assert "not finished" in err


def test_a_manifest_of_another_checkpoint_does_not_pass(two):
    shutil.copy(two / "1" / "manifest.json", two / "2")
    assert_is(restore(two), 1)


def test_none_is_left_where_all_are_damaged(two, capfd):
    for step in "12":
        damage("middle", two / step / "manifest.json")
    assert restore(two) is None
    assert capfd.readouterr().err.count("\n") == 2


def test_a_checkpoint_of_other_arrays_is_refused(two, capfd):
    wider, other_type, fewer, renamed = (template() for _ in range(4))
    by_trial = sharding(2)
    wider.params["hidden_1"]["kernel"] = jax.ShapeDtypeStruct((4, 5, 3), "f4", sharding=by_trial)
    other_type.params["hidden_1"]["kernel"] = jax.ShapeDtypeStruct(
        (4, 5, 2), "f2", sharding=by_trial
    )
    fewer.params.pop("best")
    renamed.params["hidden_2"] = renamed.params.pop("hidden_1")
    for like in (wider, other_type, fewer, renamed):
        assert restore(two, like) is None
    with open_folder(two, num_trials=4) as saved:
        assert saved.restore(template()) is None
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 * 5
    assert all("not those of this run" in line for line in lines)


def test_a_checkpoint_of_another_run_is_refused(two, capfd):
    """As where a folder was not deleted, or was copied."""
    save(two, 3, run="another", keep=9)
    assert_is(restore(two), 2)
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert f"{two / '3'} cannot be used (it is of another config, or of other data)" in err


def test_a_checkpoint_that_names_no_run_is_good(two):
    """Older versions wrote such."""
    _, body = (two / "2" / "manifest.json").read_bytes().split(b"\n")
    assert b'"run": "this", ' in body
    body = body.replace(b'"run": "this", ', b"")
    digest = hashlib.sha256(body).hexdigest().encode()
    (two / "2" / "manifest.json").write_bytes(digest + b"\n" + body)
    assert_is(restore(two), 2)


def test_what_cannot_be_deleted_is_told(two, capfd, monkeypatch):
    monkeypatch.setattr(shutil, "rmtree", mock.Mock(side_effect=PermissionError(13, "Not yours")))
    save(two, 3)
    err = capfd.readouterr().err
    assert err == f"warning: checkpoint {two / '1'} cannot be deleted ([Errno 13] Not yours)\n"
    monkeypatch.undo()
    assert_is(restore(two), 3)


def test_only_the_newest_stay(tmp_path):
    save(tmp_path, 1, 2, 3, 4, keep=3)
    assert names(tmp_path) == ["2", "3", "4"]
    save(tmp_path, 5, keep=1)
    assert names(tmp_path) == ["5"]


def test_a_damaged_one_is_not_counted_among_those_kept(tmp_path, capfd):
    save(tmp_path, 1, 2, 3, keep=3)
    for step in "23":
        damage("middle", tmp_path / step / "manifest.json")
    with open_folder(tmp_path) as saved:
        assert_is(saved.restore(template()), 1)
        saved.save(4, device_state(4), {"step": 4, "share": 0.1})
    assert names(tmp_path) == ["1", "4"]
    assert capfd.readouterr().err.count("\n") == 2


def test_what_a_killed_save_left_is_deleted_by_the_next(two):
    shutil.copytree(two / "1", two / "3.orbax-checkpoint-tmp")
    shutil.copytree(two / "1", two / "4")
    (two / "4" / "manifest.json").unlink()
    (two / "notes").mkdir()
    save(two, 3)
    assert names(two) == ["2", "3", "notes"]


def test_it_says_when_the_next_save_would_take_too_much_time(tmp_path):
    with open_folder(tmp_path, max_share=1e-9) as saved:
        assert saved.ready(after=0.0)
        saved.save(1, device_state(1), {})
        saved.save(2, device_state(2), {})  # whoever does not ask is not refused
        saved.finish()
        assert not saved.ready(after=60.0)
        assert saved.ready(after=1e12)
    assert names(tmp_path) == ["1", "2"]


def test_no_save_is_to_wait_for_the_one_before(tmp_path, monkeypatch):
    digests, end = checkpoints._digests, threading.Event()

    def wait(folder):
        assert end.wait(60)
        return digests(folder)

    monkeypatch.setattr(checkpoints, "_digests", wait)
    with open_folder(tmp_path, max_share=1e9) as saved:
        saved.save(1, device_state(1), {})
        assert not saved.ready(after=1e12)
        end.set()
        saved.finish()
        assert saved.ready(after=1e12)


def test_a_save_takes_a_twentieth_of_the_time_at_most(tmp_path, monkeypatch):
    """It copies for 2 s, for which the devices wait, and writes for 1 s."""
    clock = types.SimpleNamespace(monotonic=lambda: now)
    gather, digests, now = hosts.gather, checkpoints._digests, 100.0

    def take(seconds, function):
        def slowly(*args):
            nonlocal now
            now += seconds
            return function(*args)

        return slowly

    monkeypatch.setattr(checkpoints, "time", clock)
    monkeypatch.setattr(hosts, "gather", take(2, gather))
    monkeypatch.setattr(checkpoints, "_digests", take(1, digests))
    with Checkpoints(tmp_path, run="this", num_trials=NUM_TRIALS, keep=2) as saved:
        assert saved.ready(after=0.0)
        saved.save(1, device_state(1), {})
        saved.finish()
        assert now == 103
        assert not saved.ready(after=56.9)
        assert saved.ready(after=57.1)


def test_a_run_may_go_on_from_an_earlier_one(two):
    with open_folder(two) as saved:
        assert_is(saved.restore(template(), newest=1), 1)
        assert saved.restore(template(), newest=0) is None


def test_a_failed_save_costs_one_line_and_no_checkpoint(tmp_path, capfd, monkeypatch):
    """The disk is full in the middle of saves 3 and 4, and of 6."""
    digests = checkpoints._digests

    def fail(folder):
        if folder.name in "346":
            raise OSError(28, "No space left on device")
        return digests(folder)

    monkeypatch.setattr(checkpoints, "_digests", fail)
    with open_folder(tmp_path) as saved:
        for step in range(1, 7):
            saved.save(step, device_state(step), {"step": step, "share": 0.1})
            saved.finish()
            good = {3: ["1", "2"], 4: ["1", "2"], 5: ["2", "5"], 6: ["2", "5"]}
            assert names(tmp_path) == good.get(step, names(tmp_path))
    first, second = capfd.readouterr().err.splitlines()
    assert "No space left on device" in first
    assert "the run continues" in first
    assert "resume from checkpoint 2" in first
    assert "resume from checkpoint 5" in second
    assert_is(restore(tmp_path), 5)


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    save(tmp_path, 1, 2)
    assert not names(tmp_path)
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "resume from the start" in err


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("noticed_before", [True, False])
def test_a_disk_that_fills_up(small_disk, capfd, monkeypatch, noticed_before):
    """Each state takes 1 MB."""
    if not noticed_before:
        monkeypatch.setattr(checkpoints, "_check_space", lambda *_: None)
    states = [np.random.default_rng(i).random((NUM_TRIALS, 43000)) for i in range(7)]
    with open_folder(small_disk, keep=9) as saved:
        for step in range(1, 7):
            saved.save(step, states[step], {})
            saved.finish()
    err = capfd.readouterr().err
    assert err.count("cannot be written") == err.count("\n") == 1
    restored = restore(small_disk, states[0])
    assert restored.step == (2 if noticed_before else 3)
    np.testing.assert_array_equal(restored.state, states[restored.step])
    assert names(small_disk) == ["1", "2", "3"][: restored.step]


def test_a_limit_of_file_sizes_costs_one_line(tmp_path, capfd):
    """As `ulimit -f` sets it. Orbax's threads would each print a traceback beside it."""
    rng = np.random.default_rng(0)
    state = {f"layer_{i}": rng.random((NUM_TRIALS, 5000)) for i in range(20)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_folder(tmp_path) as saved:
        saved.save(1, state, {})
        saved.finish()
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            saved.save(2, state, {})
            saved.save(3, state, {})
            saved.finish()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        saved.save(4, state, {})
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    assert "cannot be written" in err
    assert "File too large" in err
    assert "resume from checkpoint 1" in err
    assert names(tmp_path) == ["1", "4"]


def test_a_folder_that_cannot_be_made_does_not_end_the_run(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    save(tmp_path / "file" / "checkpoints", 1, 2)
    assert capfd.readouterr().err.count("\n") == 1


def test_nothing_is_written_where_a_folder_was_moved_from(tmp_path, capfd):
    run, moved = tmp_path / "run", tmp_path / "moved"
    with workdirs.lock_workdir(run):
        saved = open_folder(run / "part")
        saved.save(1, device_state(1), {})
        saved.finish()
        run.rename(moved)
        shutil.copytree(moved, run)  # which has a lock of its own
        (run / "part" / "1").rename(run / "part" / "5")
        before = snapshot(run)
        saved.save(2, device_state(2), {})
        with pytest.raises(UserError, match="moved"):
            saved.__exit__()
    assert snapshot(run) == before
    assert names(moved / "part") == ["1"]
    assert capfd.readouterr().err == ""


def test_nothing_is_pickled(tmp_path, two, capfd, caplog):
    for path in files(two):
        assert b"pickle" not in path.read_bytes()
        assert not path.read_bytes().startswith(b"\x80")
    with open_folder(tmp_path / "objects") as saved:
        saved.save(1, {"objects": np.array([{}] * NUM_TRIALS, object)}, {})
    assert "cannot be written" in capfd.readouterr().err
    assert not caplog.records  # Orbax would log three tracebacks
    assert not names(tmp_path / "objects")
    with open_folder(two) as saved, pytest.raises(TypeError):
        saved.save(3, device_state(3), {"when": object()})


def test_no_thread_and_no_signal_handler_is_left(tmp_path):
    watched = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in watched]
    before = set(threading.enumerate())
    save(tmp_path, 1)
    assert set(threading.enumerate()) <= before
    assert [signal.getsignal(number) for number in watched] == handlers


IS_KILLED_IN_SAVE_3 = """
import os, shutil, signal, sys, threading
from pathlib import Path
from mnist_jax import UserError
from mnist_jax.runs import checkpoints, workdirs
from tests.test_checkpoints import device_state, open_folder

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

folder, moment = sys.argv[1:]
with open_folder(Path(folder)) as saved:
    for step in (1, 2, 3):
        if step == 3:
            saved.finish()
            if moment.isdecimal():  # milliseconds after the beginning
                check = checkpoints._check_space
                timer = threading.Timer(int(moment) / 1000, kill)
                checkpoints._check_space = lambda *args: (check(*args), timer.start())
            elif moment == "files are written":
                checkpoints._digests = lambda *_: kill()
            elif moment == "manifest is half written":
                checkpoints._digest = lambda body: b"0" * 64
                os.fsync = lambda *_: kill()
            elif moment == "an old one is half deleted":
                def half(path, **_):
                    (path / "manifest.json").unlink()
                    kill()
                shutil.rmtree = half
        saved.save(step, device_state(step), {"step": step, "share": 0.1})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "newest"),
    [
        ("1", 2),
        ("10", 2),
        ("files are written", 2),
        ("manifest is half written", 2),
        ("an old one is half deleted", 3),
    ],
)
def test_a_run_killed_in_a_save_leaves_a_good_checkpoint(tmp_path, capfd, moment, newest):
    root = Path(__file__).parent.parent
    path = os.pathsep.join([str(root), str(Path(__file__).parent)])
    command = [sys.executable, "-c", IS_KILLED_IN_SAVE_3, str(tmp_path), moment]
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, cwd=root)
    assert killed.returncode == -signal.SIGKILL
    with open_folder(tmp_path) as saved:
        assert_is(saved.restore(template()), newest)
        saved.save(4, device_state(4), {"step": 4, "share": 0.1})
    assert capfd.readouterr().err.count("\n") <= 1
    assert names(tmp_path) == [str(newest), "4"]
