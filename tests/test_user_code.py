"""Files of one's own: how they are found, run and kept, and what is said where that fails."""

import dataclasses
import hashlib
import importlib
import inspect
import json
import os
import site
import subprocess
import sys
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from server import ROOT

from mnist_jax import UserError
from mnist_jax.config import user_code
from mnist_jax.config.user_code import OwnFile
from mnist_jax.run_files import BadFileError

NET = '''"""A network."""
from __future__ import annotations
import dataclasses
from collections.abc import Sequence
import flax.linen as nn

SIZE = 3

@dataclasses.dataclass(frozen=True)
class Shape:
    sizes: tuple[int, ...] = (SIZE,)

class Block(nn.Module):
    size: int
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(self.size)(x))

class Net(nn.Module):
    sizes: Sequence[int] = (8, 4)
    shape: Shape = Shape()
    @nn.compact
    def __call__(self, images):
        x = images.reshape(len(images), -1)
        for size in self.sizes:
            x = Block(size)(x)
        return nn.Dense(10)(x)

def make(learning_rate, momentum: float = 0.9):
    return learning_rate, momentum
'''


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The current directory, from which `python -m` imports; what it imports is forgotten."""
    before, cache = {*sys.modules}, dict(user_code._modules)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "here"), *sys.path])
    importlib.invalidate_caches()
    yield tmp_path / "here"
    for name in sys.modules.keys() - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None) or sys.modules[name]):
            del sys.modules[name]
    user_code._modules = cache


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def load(text, name="f", path="mine.py"):
    """Returns what a file in the current directory defines."""
    write(Path(path), text)
    spec = f"{path}:{name}"
    return user_code.load(user_code.read(spec, "model"), spec, "model")


def said(text, name="f"):
    """Returns what is said of such a file."""
    with pytest.raises(UserError) as error:
        load(text, name)
    line = str(error.value)
    assert line.isprintable()
    start = f"--config.model=mine.py:{name}: "
    assert line.startswith(start)
    return line.removeprefix(start)


@pytest.mark.parametrize(
    ("spec", "names", "record"),
    [
        ("mlp", False, None),
        ("top_2_accuracy", False, None),
        ("my_net.py", True, None),
        ("my_net:Net", True, "my_net:Net"),
        ("my_net.py:Net", True, "my_net.py:Net"),
        ("~/a:b/my net.py:Net", True, "my net.py:Net"),
    ],
)
def test_values_that_name_files_are_told_from_what_is_built_in(spec, names, record):
    assert user_code.names_file(spec) == names
    if record:
        assert user_code.record_name(spec) == record


def test_a_file_is_looked_for_here_and_then_beside_the_config(here, tmp_path, monkeypatch):
    configs = tmp_path / "configs"
    write(configs / "nets" / "net.py", "there = 1")
    found = user_code.read("nets/net.py:f", "model", [tmp_path / "nowhere", configs])
    sha256 = hashlib.sha256(b"there = 1").hexdigest()
    assert found == OwnFile("net.py", str(configs / "nets" / "net.py"), sha256, b"there = 1")
    assert hash(found)
    write(here / "nets" / "net.py", "here = 1")
    assert user_code.read("nets/net.py:f", "model", [configs]).path == "nets/net.py"
    monkeypatch.setenv("HOME", str(configs))
    assert user_code.read("~/nets/net.py:f", "model").content == b"there = 1"
    assert user_code.read(f"{configs}/nets/net.py:f", "model").content == b"there = 1"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("net.py", "expected FILE.py:NAME"),
        ("net.py:", "expected FILE.py:NAME"),
        (":Net", "expected FILE.py:NAME"),
        ("net:Net", "expected FILE.py:NAME"),
        ("net.txt:Net", "expected FILE.py:NAME"),
        ("gs://bucket/net.py:Net", "expected a path on this machine, not an address"),
        ("~nobody_here/net.py:Net", "no such home directory"),
        (
            "nte.py:Net",
            "no such file here or in ../configs; did you mean net.py? expected FILE.py:NAME",
        ),
        (
            "other.py:Net",
            "no such file here or in ../configs; did you mean ../configs/others.py? expec",
        ),
        ("nowhere/net.py:Net", "no such file here or in ../configs/nowhere; expected FILE.py:NAME"),
        ("net.py/net.py:Net", "no such file here or in ../configs/net.py; expected FILE.py:NAME"),
        ("folder.py:Net", "that is a folder; expected FILE.py:NAME"),
        ("fifo.py:Net", "cannot be read (it is not a regular file); expected FILE.py:NAME"),
        ("large.py:Net", "larger than 16777216 bytes; expected FILE.py:NAME"),
        ("huge.py:Net", "cannot be read (it has 1099511627776 bytes; expected at most"),
        (".net.py:Net", "expected a file name of at most 200"),
        ("a,b.py:Net", "expected a file name of at most 200"),
        ("a:b.py:Net", "expected a file name of at most 200"),
        ("a\\b.py:Net", "expected a file name of at most 200"),
        ("a\nb.py:Net", "expected a file name of at most 200"),
        ("a\udcffb.py:Net", "expected a file name of at most 200"),
        ("n" * 198 + ".py:Net", "expected a file name of at most 200"),
        ("\u00e9" * 99 + ".py:Net", "expected a file name of at most 200"),
        ("n" * 300 + "/net.py:Net", "cannot be read (File name too long)"),
        ("a\0b/net.py:Net", "cannot be read (embedded null byte)"),
    ],
)
def test_a_file_that_cannot_be_had_is_one_line(here, tmp_path, spec, expected):
    write(here / "net.py", NET)
    write(tmp_path / "configs" / "others.py", NET)
    (here / "folder.py").mkdir()
    os.mkfifo(here / "fifo.py")
    for name, size in (("large.py", 2**24 + 1), ("huge.py", 2**40)):
        with open(here / name, "wb") as file:
            file.truncate(size)
    with pytest.raises(UserError) as error:
        user_code.read(spec, "optimizer", [Path("../configs")])
    line = str(error.value)
    assert line.isprintable()
    assert line.startswith("--config.optimizer=")
    assert f": {expected}" in line


def test_modules_dataclasses_and_functions_work_as_in_any_other(here):
    paths = list(sys.path)
    net = load(NET, "Net")
    x = jnp.ones((2, 4, 4, 1))
    variables = net(sizes=(5,)).init(jax.random.key(0), x)
    assert net(sizes=(5,)).apply(variables, x).shape == (2, 10)
    assert [*variables["params"]] == ["Block_0", "Dense_0"]
    shape = load(NET, "Shape")
    assert typing.get_type_hints(shape) == {"sizes": tuple[int, ...]}
    assert typing.get_type_hints(net)["shape"] is shape
    assert dataclasses.replace(shape(), sizes=(1,)).sizes == (1,)
    assert [*inspect.signature(load(NET, "make")).parameters] == ["learning_rate", "momentum"]
    module = sys.modules[net.__module__]
    assert module.__file__ == "mine.py"
    assert [path.name for path in here.iterdir()] == ["mine.py"]
    assert sys.path == paths


def test_a_file_runs_once_and_its_source_is_what_ran(here, tmp_path):
    text = "import sys\nsys.stdout.write('ran ')\n\ndef f(x):\n    return x + 1  # one\n"
    one = load(text)
    assert load(text) is one
    write(here / "mine.py", text.replace("one", "two"))
    assert inspect.getsource(one) == "def f(x):\n    return x + 1  # one\n"
    copy = OwnFile(
        "mine.py",
        str(tmp_path / "mine.py"),
        hashlib.sha256(text.encode()).hexdigest(),
        text.encode(),
    )
    assert user_code.load(copy, "elsewhere/mine.py:f", "optimizer") is one
    other = load(text.replace("one", "two"))
    assert other is not one
    assert (one.__module__, other.__module__) == (one.__module__, other.__module__)
    assert one.__module__ != other.__module__


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\ndef f(:", "SyntaxError (line 2): invalid syntax; mend the file"),
        ("x = 1\n  y = 2", "IndentationError (line 2): unexpected indent; mend the file"),
        (b"x = '\xff'", "SyntaxError"),
        (b"x = 1\0", "null bytes; mend the file"),
        ("(" * 999, "SyntaxError (line 1): too many nested parentheses; mend the file"),
        (
            "\nimport nonsense",
            "ModuleNotFoundError (line 2): No module named 'nonsense'; one file must",
        ),
        (
            "from .blocks import f",
            "known parent package; one file must hold all that is not installed",
        ),
        ("from numpy import f", "ImportError (line 1): cannot import name 'f' from 'numpy'"),
        ("x = {}['momentum']", "KeyError (line 1): momentum; mend the file"),
        (
            "def g():\n  open('/no')\ng()",
            "FileNotFoundError (line 2): [Errno 2] No such file or directory",
        ),
        (
            "raise RuntimeError('no\\nluck\\x1b[0m')",
            "RuntimeError (line 1): no luck\ufffd[0m; mend the file",
        ),
        ("raise RuntimeError('no' * 999)", "RuntimeError (line 1): no"),
        ("def f(): f()\nf()", "RecursionError (line 1): maximum recursion depth"),
        ("raise SystemExit(0)", "it ends the program; mend the file"),
        ("import argparse\nargparse.ArgumentParser().error('no')", "it ends the program"),
    ],
)
def test_a_file_that_fails_is_one_line(text, expected):
    before = {*sys.modules}
    line = said(text)
    assert expected in line
    assert len(line) < 450
    assert not [name for name in sys.modules.keys() - before if name.startswith("mine")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("net", "did you mean Net? it defines Shape, Block, Net, make"),
        ("Mixer", "class or function of the file; it defines Shape, Block, Net, make"),
        ("SIZE", "class or function of the file; it defines"),
        ("nn", "class or function of the file; it defines"),
        ("Net.setup", "it defines"),
        ("__builtins__", "it defines"),
        ("", "expected FILE.py:NAME"),
    ],
)
def test_a_name_that_is_not_there_is_one_line(name, expected):
    assert expected in said(NET, name)


def test_a_dot_in_a_name_makes_no_package(here):
    write(here / "my.net.py", "from .blocks import f")
    file = user_code.read("my.net.py:f", "model")
    with pytest.raises(UserError, match="no known parent package; one file must hold all"):
        user_code.load(file, "my.net.py:f", "model")


def test_many_names_are_not_all_listed():
    assert said("x = 1").endswith("it defines none")
    many = "\n".join(f"def g{i}(): pass" for i in range(20))
    assert said(f"{many}\ndef _g(): pass", "other").endswith("g7, g8 and 11 more")


def test_what_is_imported_or_made_may_be_named():
    assert load("from flax.linen import Dense", "Dense")
    assert load("import functools\nf = functools.partial(int, base=2)")("11") == 3


def lay_out(here):
    """Puts modules beside a file."""
    for name in ("helpers.py", "lab/blocks.py", "package/__init__.py", "package/blocks.py"):
        write(here / name, "def f(): pass")
    write(here / "sub" / "deep.py", "")


IMPORTS = (
    ("import helpers", "helpers"),
    ("import helpers as h", "helpers"),
    ("from helpers import f", "helpers"),
    ("import lab.blocks", "lab"),
    ("from lab import blocks", "lab"),
    ("from package.blocks import f", "package"),
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *IMPORTS,
        ("import importlib\nimportlib.import_module('helpers')", "helpers"),
        ("try:\n    import helpers\nexcept ImportError:\n    pass", "helpers"),
        ("try:\n    import helpers\nexcept Exception:\n    pass", "helpers"),
        ("import sys\nsys.path.insert(0, 'sub')\nimport deep", "deep"),
    ],
)
def test_what_lies_beside_a_file_and_in_no_record_is_refused(here, text, name):
    lay_out(here)
    line = said(f"{text}\ndef f(): pass")
    assert line.startswith(f"mine.py imports {name} ({here}/")
    assert line.endswith("); one file must hold all that is not installed")


@pytest.mark.parametrize(("text", "name"), IMPORTS)
def test_it_is_refused_too_if_others_have_imported_it(here, text, name):
    lay_out(here)
    exec(text, {})  # as a config file or a notebook may
    assert said(text).startswith(f"mine.py imports {name} ({here}/")


def test_it_is_refused_too_when_a_function_imports_it(here):
    lay_out(here)
    function = load("def f():\n    import numpy, helpers")
    with pytest.raises(UserError, match=r"^mine.py imports helpers \(.*helpers.py\); one file"):
        function()


def test_links_lead_to_what_is_refused_too(here, tmp_path, monkeypatch):
    write(tmp_path / "shared" / "helpers.py", "")
    (here / "helpers.py").symlink_to(tmp_path / "shared" / "helpers.py")
    (tmp_path / "way").symlink_to(here)
    assert said("import helpers").startswith("mine.py imports helpers ")
    write(here / "others.py", "")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "way"), *sys.path])
    assert said("import others").startswith("mine.py imports others ")
    monkeypatch.setattr(sys, "path", [str(here), *sys.path])
    del sys.modules["others"]
    monkeypatch.chdir(tmp_path / "shared")
    file = user_code.read("../way/mine.py:f", "model")
    with pytest.raises(UserError, match=r"mine.py imports others \("):
        user_code.load(file, "../way/mine.py:f", "model")


@pytest.mark.parametrize("linked", [False, True])
def test_packages_of_an_environment_that_lies_here_are_installed(
    here, tmp_path, monkeypatch, linked
):
    if linked:
        (tmp_path / "environment").mkdir()
        (here / ".venv").symlink_to(tmp_path / "environment")
    folder = here / ".venv" / "lib" / "site-packages"
    write(folder / "helpers" / "__init__.py", "")
    write(folder / "lab" / "blocks.py", "")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    text = "import os, numpy, helpers, lab.blocks, mnist_jax.layers\ndef f(): pass"
    assert said(text).startswith("mine.py imports helpers ")
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(folder)])
    assert load(text)


def distribution(folder, name, **origin):
    """Records a package as pip does."""
    info = folder / f"{name}-1.0.dist-info"
    write(info / "METADATA", f"Name: {name}\nVersion: 1.0\n")
    write(info / "top_level.txt", f"{name}\n")
    write(info / "direct_url.json", json.dumps(origin))


def test_a_package_that_may_be_edited_here_is_installed(here, tmp_path, monkeypatch):
    write(here / "my lab" / "helpers" / "__init__.py", "")
    monkeypatch.setattr(sys, "path", [f"{here}/my lab", f"{tmp_path}/site", *sys.path])
    url = (here / "my lab").as_uri()
    distribution(tmp_path / "site", "helpers", url=url, dir_info={})
    assert said("import helpers").startswith("mine.py imports helpers ")  # not what was copied
    distribution(tmp_path / "site", "helpers", url=url, dir_info={"editable": True})
    assert load("import helpers\ndef f(): pass")
    write(here / "helpers.py", "")
    del sys.modules["helpers"]
    monkeypatch.setattr(sys, "path", [str(here), *sys.path])
    importlib.invalidate_caches()
    assert said("import helpers  # another").startswith("mine.py imports helpers ")


def test_a_package_that_was_put_into_a_folder_here_is_installed(here, monkeypatch):
    write(here / "deps" / "helpers" / "__init__.py", "")
    distribution(here / "deps", "helpers")
    monkeypatch.setattr(sys, "path", [str(here / "deps"), *sys.path])
    assert load("import helpers\ndef f(): pass")


def test_a_package_without_a_file_may_lie_in_two_places(here, tmp_path, monkeypatch):
    write(here / "lab" / "blocks.py", "")
    write(tmp_path / "elsewhere" / "lab" / "others.py", "")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "elsewhere")])
    assert load("import lab.others\ndef f(): pass")
    assert said("import lab.blocks").startswith(f"mine.py imports lab.blocks ({here}/")


def test_the_package_itself_may_lie_here(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = b"import mnist_jax.layers\ndef f(): import mnist_jax.layers"
    user_code.load(OwnFile("mine.py", "mine.py", "", text), "mine.py:f", "model")()


def test_a_lazy_module_is_not_loaded_to_see_where_it_lies(tmp_path, monkeypatch):
    write(tmp_path / "elsewhere" / "helpers.py", "raise RuntimeError")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "elsewhere"), *sys.path])
    assert load(
        "import importlib.util as util, sys\n"
        "spec = util.find_spec('helpers')\n"
        "spec.loader = util.LazyLoader(spec.loader)\n"
        "sys.modules['helpers'] = module = util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "def f(): pass"
    )
    del sys.modules["helpers"]


def test_modules_from_elsewhere_may_be_imported(tmp_path, monkeypatch):
    write(tmp_path / "elsewhere" / "helpers.py", "")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "elsewhere"), *sys.path])
    assert load("import helpers\ndef f(): pass")


PROGRAM = """
from mnist_jax import UserError
from mnist_jax.config import user_code
try:
    user_code.load(user_code.read("mine.py:f", "metrics"), "mine.py:f", "metrics")
except UserError as error:
    print(error)
import jax
jax.config.update("jax_num_cpu_devices", 3)
print(jax.local_device_count())
"""


@pytest.mark.slow
@pytest.mark.parametrize("computes", [False, True])
def test_a_file_that_computes_before_jax_is_set_up_is_refused(here, computes):
    ones = "ones(3)" if computes else "ones"
    write(here / "mine.py", f"import jax.numpy as jnp\nx = jnp.{ones}\ndef f(): return x\n")
    environment = dict(os.environ, PYTHONPATH=str(ROOT), JAX_NUM_CPU_DEVICES="2")
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if computes:
        assert done.stdout == (
            "--config.metrics=mine.py:f: it computes with JAX while it is imported, before JAX is "
            "set up; do that in a function, or with NumPy\n"
        )
        assert "should be updated before backends are initialized" in done.stderr
    else:
        assert done.stdout == "3\n"


def test_copies_come_back_as_they_were_kept(here, tmp_path):
    write(here / "mine.py", NET)
    write(here / "sub" / "my opt.py", "def make(): pass")
    files = [user_code.read(spec, "model") for spec in ("mine.py:Net", "sub/my opt.py:make")]
    user_code.save(tmp_path, [])
    assert not (tmp_path / "files").exists()
    user_code.save(tmp_path, files)
    user_code.save(tmp_path, files)
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == ["mine.py", "my opt.py"]
    for file in files:
        copy = user_code.read_copy(tmp_path, file.name, file.sha256)
        assert copy == file._replace(path=str(tmp_path / "files" / file.name))
    assert user_code.load(copy, "my opt.py:make", "optimizer").__name__ == "make"


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("mine.py", lambda path: path.unlink(), "mine.py: there is no such file"),
        ("mine.py", lambda path: path.write_bytes(b""), "mine.py: it has changed since"),
        ("../mine.py", lambda path: None, "mine.py: a run keeps no file of this name"),
        ("..", lambda path: None, "a run keeps no file of this name"),
    ],
)
def test_a_copy_that_is_not_what_was_kept_is_refused(here, tmp_path, name, change, expected):
    write(here / "mine.py", NET)
    file = user_code.read("mine.py:Net", "model")
    user_code.save(tmp_path, [file])
    write(tmp_path / "mine.py", NET)
    change(tmp_path / "files" / "mine.py")
    with pytest.raises(BadFileError, match=expected):
        user_code.read_copy(tmp_path, name, file.sha256)
