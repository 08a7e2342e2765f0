"""The package as it is installed: the configs by name, the wheel, and where it is imported from."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest
from server import ROOT

from mnist_jax import UserError
from mnist_jax.config.config_files import read_file

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
MINE = "def get_config(seed=3):\n    return {'seed': seed}\n"


@pytest.fixture
def here(monkeypatch, tmp_path):
    """An empty folder that is the current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_of_the_package_has_a_name_everywhere(here, name):
    (here / name).mkdir()  # a run's folder, say, which is no config
    named, given = read_file(name), read_file(str(ROOT / "configs" / f"{name}.py"))
    assert (named.name, named.config) == (name, given.config)


def test_a_file_in_the_current_directory_comes_first(here):
    (here / "l2_sweep.py").write_text(MINE)
    assert read_file("l2_sweep").config == {"seed": 3}
    assert read_file("l2_sweep:7").config == {"seed": "7"}
    (here / "l2_sweep").write_text("A file of that very name is meant, whatever it is.")
    with pytest.raises(UserError, match=r"^--config=l2_sweep: ends in neither \.py nor \.json"):
        read_file("l2_sweep")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("l2_swep", f"did you mean l2_sweep? expected {', '.join(CONFIGS)}, or a file"),
        ("minne", "did you mean mine? expected baseline"),
        ("configs/l2_sweep", "no such file; expected a config file"),
    ],
)
def test_a_name_that_no_config_has_is_told_those_that_there_are(here, given, said):
    (here / "mine.py").write_text(MINE)
    with pytest.raises(UserError) as error:
        read_file(given)
    assert str(error.value).startswith(f"--config={given}: ")
    assert said in str(error.value)


def test_what_is_imported_is_required():
    """Not only by a package that is required: that may stop."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    extras = settings["options.extras_require"]
    listed = settings["options"]["install_requires"]
    listed += "".join(extras[name] for name in ("bench", "tensorboard", "export", "onnx"))
    required = {re.split("[>=]", line)[0].lower().replace("_", "-") for line in listed.split("\n")}
    imported = set()
    for file in (ROOT / "mnist_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    imported -= {*sys.stdlib_module_names, "mnist_jax"}
    names = {"absl": "absl-py", "orbax": "orbax-checkpoint", "PIL": "pillow"}
    names |= {
        "sklearn": "scikit-learn",
        "tensorflow": "tensorflow-cpu",
        "tensorboardX": "tensorboardx",
    }
    imported = {names.get(name, name).replace("_", "-") for name in imported}
    required_by_tfds = {"array-record"}  # read only where tensorflow-datasets has written it
    assert imported - required == required_by_tfds


def pip(*words):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    subprocess.run([*command, "--quiet", "--no-deps"], check=True)


def copy_checkout(folder):
    """Copies what is built into a wheel, with the link to the configs."""
    for name in ("mnist_jax", "configs"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def create_environment(folder):
    """Returns the programs of a fresh environment, which has the packages that the tests have."""
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A wheel, and the programs of an environment that it is installed in."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", f"--wheel-dir={folder}", copy_checkout(folder / "checkout"))
    (wheel,) = folder.glob("*.whl")
    programs = create_environment(folder / "venv")
    pip("--python", programs / "python", "install", wheel)
    return wheel, programs


def run(*words, cwd, **environment):
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env=variables | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_wheel_has_every_module_and_config(installed):
    package = ROOT / "mnist_jax"
    files = {*package.rglob("*.py"), *(package / "configs").glob("*.py"), package / "py.typed"}
    with zipfile.ZipFile(installed[0]) as wheel:
        found = {name for name in wheel.namelist() if name.startswith("mnist_jax/")}
    assert found == {str(file.relative_to(ROOT)) for file in files}


@pytest.mark.slow
def test_an_installed_package_runs_anywhere(installed, here):
    _, programs = installed
    options = ("--config.dataset=digits", "--config.num_epochs=1", "--config.hidden_sizes=8")
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    done = run("mnist-jax", "--config=baseline", *options, "--workdir=run", cwd=here, PATH=path)
    assert done.returncode == 0, done.stderr
    command = f"mnist-jax --config=baseline {' '.join(options)}"
    assert f"    {command}\n" in (here / "run" / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["--sed=1"], ["--config=nothing"]])
def test_the_command_is_the_module(installed, here, words):
    python = installed[1] / "python"
    command, module = (
        run(*program, *words, cwd=here)
        for program in ([python.with_name("mnist-jax")], [python, "-m", "mnist_jax.main"])
    )
    assert command.returncode == module.returncode == (0 if words == ["--help"] else 2)
    assert (command.stdout, command.stderr) == (module.stdout, module.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["lenient", "strict"])
def test_an_editable_package_is_found_beside_its_checkout(here, mode):
    """There Python could take the checkout's folder itself for a package without a file."""
    checkout, programs = copy_checkout(here / "mnist_jax"), create_environment(here / "venv")
    python = programs / "python"
    setting = f"--config-settings=editable_mode={mode}"
    pip("--python", python, "install", setting, "--editable", checkout)
    code = "import mnist_jax\nmnist_jax.UserError"
    (here / "script.py").write_text(code)
    (here / "test_it.py").write_text(f"{code}\ndef test_it(): pass")
    for words in (
        ["-c", code],
        ["script.py"],
        ["-m", "pytest", "test_it.py"],
        ["-c", f"import sys; sys.path.insert(0, {str(here)!r})\n{code}"],  # a notebook's kernel
        ["-m", "mnist_jax.main", "--help"],
        [programs / "mnist-jax", "--help"],
    ):
        done = run(python, *words, cwd=here)
        assert done.returncode == 0, done.stderr
