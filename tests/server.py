"""Programs of the package as a user starts them, in less time: forked, not started anew."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SERVER = """
import atexit, gc, importlib, json, os, signal, sys, threading, traceback

sys.path.append("tests")
from compiling import compile_with
from mnist_jax.cli import run_command
import matplotlib.backends.backend_agg, matplotlib.backends.backend_svg
import orbax.checkpoint, scipy.stats, tqdm
import sklearn.datasets, sklearn.model_selection
import mnist_jax.benchmark.__main__, mnist_jax.data.__main__
import mnist_jax.main, mnist_jax.predict, mnist_jax.report.__main__
import mnist_jax.runs.runner

gc.freeze()

def serve():
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, dict):
            pid = os.fork()
            if not pid:
                return request
            answer = pid
        else:
            pid, flags = request
            pid, status, usage = os.wait4(pid, flags)
            answer = pid and [os.waitstatus_to_exitcode(status), usage.ru_maxrss]
        os.write(1, json.dumps(answer).encode() + b"\\n")

if request := serve():
    for number, path in enumerate([os.devnull, request["out"], request["err"]]):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(request["cwd"])
    if not (request["root"] or os.getuid()):
        import ctypes, struct
        assert not ctypes.CDLL(None).capset(struct.pack("Ii", 0x20080522, 0), bytes(24))
    for name, value in request["environment"].items():
        os.environ[name] = value
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup's programs ignore
    signal.alarm(request["limit"])
    if not request["optimize"]:
        jax_setup = importlib.import_module("mnist_jax.training.jax_setup")
        jax_setup.DEFAULTS["jax_disable_most_optimizations"] = True
        jax = importlib.import_module("jax")
        jax.config.update("jax_disable_most_optimizations", True)
        jax.stages.Lowered.compile = compile_with(emitters=False)
    if not request["tidy"]:
        importlib.import_module("mnist_jax.runs.made_files").tidy = str
    if not request["draw"]:
        importlib.import_module("mnist_jax.report.one_run").write_report = str
    sys.argv = [request["module"], *request["arguments"]]
    sys.orig_argv = ["python", "-m", *sys.argv]
    try:
        program = importlib.import_module(request["program"])
        run_command(program.main, program.define_flags, sys.argv)
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)  # the interpreter would tidy up for a second what all processes share
"""


PROGRAMS = ("main", "predict")
"""Those that are one file; the others are the `__main__` of a room."""
OURS = {"JAX_NUM_CPU_DEVICES", "MNIST_JAX_DATA_DIR"}
"""What the tests set for themselves, and not for the programs."""


def snapshot(folder):
    """Returns what changes when a file in a folder is written, replaced or deleted."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (s.st_ino, s.st_size, s.st_mtime_ns) for path, s in found.items()}


class Server:
    """Runs the package's programs as a shell would, but forks where a shell would start Python.

    The server has imported everything and has not touched JAX, so that a program lives from the
    first line of its `main` to its end, in a process of its own.
    """

    def __init__(self, folder: Path):
        self.folder, self._count = folder, 0
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name not in OURS}
            # The bytecode of a config is nothing that a run leaves.
            | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self):
        self._server.stdin.close()
        self._server.wait()

    def ask(self, request):
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(
        self,
        module,
        *arguments,
        cwd=ROOT,
        limit=300,
        draw=False,
        optimize=False,
        tidy=True,
        root=True,
        **environment,
    ):
        """Starts a program, in less time without `draw` and `optimize`.

        Without `draw` no report is made. Without `optimize` XLA optimises little, and last digits
        are not those of a run that a user starts. Without `tidy` a finished run keeps its
        checkpoints, as one that is killed before it deletes them. Not as `root` the program is
        bound by the modes of files, whoever runs the tests.
        """
        self._count += 1
        out, err = (self.folder / f"{self._count}.{name}" for name in ("out", "err"))
        request = {"module": f"mnist_jax.{module}", "arguments": list(map(str, arguments))}
        request["program"] = request["module"] + ".__main__" * (module not in PROGRAMS)
        request |= {"out": str(out), "err": str(err), "cwd": str(cwd), "limit": limit}
        request |= {"draw": draw, "optimize": optimize, "tidy": tidy, "root": root}
        request["environment"] = environment
        return Process(self, self.ask(request), out, err)

    def run(self, module, *arguments, **options):
        process = self.start(module, *arguments, **options)
        process.wait()
        return process


class Process:
    """A program that the server has started; `status` is None while it lives."""

    def __init__(self, server, pid, out, err):
        self._server, self.pid, self._out, self._err = server, pid, out, err
        self.status = self.peak_kb = None

    @property
    def out(self):
        return self._out.read_text() if self._out.exists() else ""

    @property
    def err(self):
        return self._err.read_text() if self._err.exists() else ""

    def send(self, number):
        if self.status is None:
            os.kill(self.pid, number)

    def wait(self, flags=0):
        if self.status is None and (answer := self._server.ask([self.pid, flags])):
            self.status, self.peak_kb = answer
        return self.status

    def wait_until(self, condition):
        """Returns whether the condition came true while the process lived."""
        while not condition():
            if self.wait(os.WNOHANG) is not None:
                return False
            time.sleep(0.002)
        return True
