"""README and docs: their links, their table of keys, and every command in them."""

import configparser
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from server import ROOT

from mnist_jax.config.experiment import read_config
from mnist_jax.training import recipes

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = ["--config.dataset=digits", "--config.num_epochs=1", "--config.num_seeds=2"]
"""What makes a run of every command short."""


STARTS = [["srun"], ["pip"], ["python"], ["ruff"], ["mypy"]]


def code_blocks(text):
    """Yields the language and the content of each block of code."""
    for fenced in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        yield fenced[1], fenced[2]
    for indented in re.finditer(r"(?:^    \S.*\n(?:^     .*\n)*)+", text, re.M):
        yield "", re.sub("^    ", "", indented[0], flags=re.M)


def commands():
    """Yields the page and the words of every command, without what starts it on a cluster."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = [block for language, block in code_blocks(text) if language in ("", "sh")]
        spans = re.findall(r"`((?:pip|python|ruff) [^`]+)`", text)
        strings = re.findall(r'"(python -m [^"]+)"', text)
        for block in (*blocks, *spans, *strings):
            for line in re.sub(r"\\\n\s*|\n(?!\S)", "", block).splitlines():
                for command in line.split(" && "):
                    if command.split()[:1] not in STARTS:  # text, in which a ' is no quote
                        continue
                    words = shlex.split(command, comments=True)
                    if words[:1] == ["srun"]:
                        words = words[words.index("python") :]
                    if words[:1] in (["pip"], ["python"], ["ruff"], ["mypy"]):
                        yield page.name, words


def programs(name):
    """Returns the commands that start a program of the package, once each, as parameters."""
    start = ["python", "-m", f"mnist_jax.{name}"]
    found = {" ".join(words[3:]): words[3:] for _, words in commands() if words[:3] == start}
    return [pytest.param(words, id=line[:80]) for line, words in found.items() if words]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    paths = re.findall(r"`((?:mnist_jax|configs|experiments|tests|docs)/[\w/.*]*)`", text)
    paths += re.findall(r"`(\w+/[\w*]+\.py)`", text)  # in a room of the package
    roots = (ROOT, ROOT / "mnist_jax")
    assert [path for path in paths if not any([*root.glob(path)] for root in roots)] == []


def test_the_table_of_keys_is_that_of_the_code():
    made = runpy.run_path(ROOT / "docs" / "make_grid.py")
    assert made["page"]() == made["FILE"].read_text(encoding="utf-8"), "python docs/make_grid.py"


def test_the_readme_fits_its_purpose():
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") <= 150


def test_every_command_is_one_that_a_test_or_the_set_up_runs():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    packages = [".", *(f".[{extra}]" for extra in parser["options.extras_require"])]
    modules = ["pytest", "mnist_jax.main", "mnist_jax.data", "mnist_jax.report"]
    modules += ["mnist_jax.benchmark", "mnist_jax.export", "mnist_jax.predict"]
    known = [["pip", "install", "-e", package] for package in packages]
    known += [["python", "-m", module] for module in modules]
    known += [["python", str(path.relative_to(ROOT))] for path in ROOT.glob("*/*.py")]
    known += [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]]
    unknown = [x for x in commands() if not any(x[1][: len(start)] == start for start in known)]
    assert unknown == []


@pytest.mark.slow
@pytest.mark.parametrize("page", ["python", "search"])
def test_the_python_of_the_pages(tmp_path, page):
    if page == "search":
        pytest.importorskip("optuna")
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    program = "\n".join(block for language, block in code_blocks(text) if language == "python")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "95 % interval" in done.stdout


@pytest.mark.slow
def test_the_exports_of_the_pages(server, folder):
    for package in ("safetensors", "jax2onnx", "onnxruntime"):
        pytest.importorskip(package)
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    commands = [each.values[0] for each in (*programs("export"), *programs("predict"))]
    commands += [["RUN", f"--format={name}"] for name in ("safetensors", "stablehlo")]
    for words in commands:
        program = "export" if "--format" in " ".join(words) else "predict"
        done = server.run(program, *words, cwd=folder)
        assert (done.status, done.err) == (0, ""), words
    program = "\n".join(block for language, block in code_blocks(text) if language == "python")
    program += "\nassert probabilities.shape == (5, 10) and about['dataset'] == 'digits', about"
    program += "\nassert weights['params/output/kernel'].shape == (4, 10)"
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)


@pytest.fixture(scope="module")
def folder(server, tmp_path_factory):
    """Where a reader is who has followed the pages: configs, a model, two runs and eight shards."""
    path = tmp_path_factory.mktemp("reader")
    for name in ("configs", "experiments"):
        (path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "experiments/own_model/lenet.py", path / "my_net.py")
    leaves = np.random.default_rng(0).integers(0, 256, (400, 8, 8, 3)).astype(np.uint8)
    Image.fromarray(leaves[0]).save(path / "three.png")
    Image.fromarray(leaves[1]).save(path / "photo.jpg")
    np.savez(path / "leaves.npz", x_train=leaves, y_train=np.arange(400) % 3)
    small = ["--config=configs/baseline.py", *SMALL, "--config.hidden_sizes=4"]
    runs = {"RUN": [], "OTHER_RUN": ["--config.l2=1e-3"]}
    runs |= {f"runs/l2/{i}": ["--config.num_seeds=8", f"--shard={i}/8"] for i in range(8)}
    for name, arguments in runs.items():
        done = server.run("main", *small, *arguments, f"--workdir={name}", cwd=path)
        assert done.status == 0, done.err
    shutil.copytree(path / "RUN", path / "DIR")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("words", programs("main"))
def test_a_run_of_the_pages(server, folder, tmp_path, words):
    words = [word.replace("$SLURM_ARRAY_TASK_ID", "0") for word in words]
    words = [word for word in words if word != "--distributed=auto"]  # the rest is the same
    if "--workdir=RUN" not in words:
        small = SMALL[1:] if "--config.dataset=leaves.npz" in words else SMALL
        halved = ["--config.num_epochs=3"] * ("--config.halving=3" in words)  # one has no rung
        words = [*words, *small, *halved, f"--workdir={tmp_path / 'run'}"]
    done = server.run("main", *words, cwd=folder)
    assert (done.status, done.err) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("words", programs("report"))
def test_a_report_of_the_pages(server, folder, words):
    words = [str(path) for word in words for path in sorted(folder.glob(word)) or [word]]
    done = server.run("report", *words, cwd=folder, draw=True)
    assert (done.status, done.err) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("words", programs("data"))
def test_an_inspection_of_the_pages(server, folder, tmp_path, words):
    words = ["digits" if word in ("PATH", "mnist") else word for word in words]
    done = server.run("data", *words, f"--output={tmp_path / 'sheet.png'}", cwd=folder)
    assert (done.status, done.err) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("words", programs("benchmark"))
def test_a_benchmark_of_the_pages(server, folder, words):
    done = server.run("benchmark", *words, *SMALL, "--rounds=1", cwd=folder)
    assert done.status == 0, done.err


@pytest.mark.slow
def test_the_configs_of_the_pages(server, folder, tmp_path):
    count = 0
    for page in PAGES:
        for language, block in code_blocks(page.read_text(encoding="utf-8")):
            if language == "python" and "get_config" in block:
                count += 1
                (folder / "config.py").write_text(block)
                arguments = ["--config=config.py", *SMALL, f"--workdir={tmp_path / str(count)}"]
                done = server.run("main", *arguments, cwd=folder)
                assert (done.status, done.err) == (0, ""), page
            elif language == "python":
                compile(block, page, "exec")
    assert count == 2


def test_models_optimizers_and_metrics_of_the_pages_can_be_used(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "your_own.md").read_text(encoding="utf-8")
    blocks = [block for language, block in code_blocks(text) if language == "python"]
    (tmp_path / "own.py").write_text("\n\n".join(blocks))
    monkeypatch.chdir(tmp_path)
    asked = {"model": "own.py:Net", "optimizer": "own.py:make", "metrics": ("own.py:margin",)}
    found = read_config(asked | {"dataset": "digits"}, "mine", 0)
    assert (found.values["width"], found.values["learning_rate"]) == ((64,), (0.05,))
    recipes.check(found)
