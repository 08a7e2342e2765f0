"""The machine that the tests run on: two CPU devices of one thread each."""

import atexit
import os
import shutil
import signal
import tempfile

import pytest
from compiling import FLAGS, compile_with
from server import Server

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"
os.environ["XLA_FLAGS"] = ONE_THREAD + FLAGS  # until XLA has read them
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "2"

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit the first process' folders
    folder = tempfile.mkdtemp(prefix="mnist_jax_tests_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in ("JAX_COMPILATION_CACHE_DIR", "MNIST_JAX_CACHE_DIR", "MPLCONFIGDIR"):
        os.environ[name] = os.path.join(folder, name.lower())  # a home need not be writable
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # many tests share a program


LONGEST = ("resume", "sweep", "main", "shards", "hosts", "layers", "trial", "optimizers")


def pytest_collection_modifyitems(items):
    """Starts the longest files first, so that the processes of pytest-xdist end together."""
    order = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session", autouse=True)
def compile_fast():
    """XLA optimises little and makes loops the older way, which takes a third of the time."""
    import jax

    jax.devices()  # with which XLA reads its flags, once in a process, if collecting has not
    os.environ["XLA_FLAGS"] = ONE_THREAD
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def optimized(compile_fast, monkeypatch):
    """XLA optimises as in a run: for tests of bits that an optimisation could change.

    Emitters make its loops where `lower` and `compile` are called, as a sweep calls them.
    """
    import jax

    from mnist_jax.training import sweep

    monkeypatch.setattr(sweep, "_known", {})  # programs that are compiled otherwise
    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_with(emitters=True))
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Runs programs in processes of their own."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture
def nothing_waits_for_ever(request):
    """A call that would never return fails instead of stopping the tests."""
    seconds = 300 if request.node.get_closest_marker("slow") else 60
    message = f"it took {seconds} s"
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(message))
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def isolated(tmp_path, monkeypatch):
    """The test does not see the machine's own cache, data, prepared folders, or network."""
    from mnist_jax.data import download

    monkeypatch.setenv("MNIST_JAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("MNIST_JAX_DATA_DIR", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no_tfds"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "MIRRORS", {})
