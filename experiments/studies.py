"""What the studies share: they run programs, read what those recorded, and fill in their pages."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure

from mnist_jax import disk
from mnist_jax.report.figures import canvas
from mnist_jax.report.render import markdown_table
from mnist_jax.runs import results
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run

KEPT = ("config.json", "results.csv", "summary.json")
"""The files of a run that a study keeps: they are small, and all tables come from them."""


def run(module: str, *arguments: str, **environment: str) -> None:
    """Runs a program of the package, with further environment variables.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    command = (sys.executable, "-m", f"mnist_jax.{module}", *arguments)
    subprocess.run(command, check=True, env=os.environ | environment)


def run_script(script: Path) -> None:
    """Runs a program of a study.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    subprocess.run((sys.executable, str(script)), check=True)


def run_once(workdir: Path, *arguments: str) -> Run:
    """Returns the run in a work directory, which is trained or resumed unless it is finished."""
    if not results.is_finished(workdir):
        run("main", *arguments, f"--workdir={workdir}")
    return results.read_run(workdir)


def keep_files(workdir: Path, folder: Path, names: Iterable[str] = KEPT) -> None:
    """Copies files of a run into a folder of the study."""
    folder.mkdir(exist_ok=True)
    for name in names:
        shutil.copyfile(workdir / name, folder / name)


def keep_small(workdir: Path, folder: Path) -> None:
    """Copies a run's files, its statistics left out: whoever reads the run computes them anew."""
    keep_files(workdir, folder)
    if (own := workdir / "files").is_dir():  # code of the study's own, without which none reads it
        shutil.copytree(own, folder / "files", dirs_exist_ok=True)
    summary = read_record(folder / "summary.json")
    for point in summary["grid"]:
        point.pop("statistics", None)
    disk.write_text(folder / "summary.json", json.dumps(summary) + "\n")


def read_record(file: Path) -> dict:
    """Returns a JSON object, an empty one if there is no file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def read_rows(file: Path) -> list[dict]:
    """Returns the rows of a file with a JSON object a line, none if there is no file."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def commit_of(provenance: Row) -> str:
    """Shortens the recorded commit; an ending says that the checkout had changes of its own."""
    commit, *changed = str(provenance["commit"]).partition("-")
    return commit[:12] + "".join(changed)


def list_versions(*records: Row) -> str:
    """Lists the versions in records, each with a `provenance` and maybe with `peers`."""
    versions: dict[str, str] = {}
    for record in records:
        versions |= record["provenance"]["versions"]
        for peer in record.get("peers", {}).values():
            versions |= peer["versions"]
    return ", ".join(f"{package} {version}" for package, version in versions.items())


def describe_runs(runs: Sequence[Run]) -> str:
    """Lists commands, commits and seconds of runs, as Markdown.

    Args:
        runs: At least one; machine, versions and data are those of the last.
    """
    rows = []
    for made in (run.summary["provenance"] for run in runs):
        seconds = [f"{made['seconds'][phase]:.0f}" for phase in ("compile", "train")]
        rows.append([f"`{made['command']}`", commit_of(made), *seconds])
    last = runs[-1].summary["provenance"]
    devices = last["devices"]
    machine = (
        f"Machine: {devices['cores']} cores of {last['machine']}; {devices['count']} "
        f"{devices['platform']} devices, matmul precision {devices['matmul_precision']}. "
        f"Versions: {list_versions(runs[-1].summary)}. Data: {last['data_checksum']}."
    )
    return f"{markdown_table(['command', 'commit', 'compile, s', 'train, s'], rows)}\n\n{machine}"


def fill_in(page: Path, sections: Mapping[str, str]) -> None:
    """Replaces what is between `<!-- NAME -->` and `<!-- end NAME -->` in a Markdown file."""
    text = page.read_text(encoding="utf-8")
    for name, section in sections.items():
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        before, rest = text.split(start)
        _, after = rest.split(end)
        text = f"{before}{start}\n{section}\n{end}{after}"
    disk.write_text(page, text)


def save_figure(file: Path, draw: Callable[..., Figure], *arguments) -> None:
    """Draws a figure in the style of reports, and saves it."""
    with style.context(canvas.STYLE, after_reset=True):
        draw(*arguments).savefig(file)
