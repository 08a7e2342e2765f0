"""What the pages of the studies in `experiments/` are filled with."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mnist_jax import disk
from mnist_jax.report.render import markdown_table
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run


def commit_of(provenance: Row) -> str:
    """Shortens the recorded commit, and says where the checkout had changes of its own."""
    commit, *changed = str(provenance["commit"]).partition("-")
    return commit[:12] + "".join(changed)


def record(runs: Sequence[Run]) -> str:
    """Lists what made the numbers of a study, as Markdown.

    Args:
        runs: At least one; machine, versions and data are those of the last.
    """
    rows, made = [], runs[-1].summary["provenance"]
    for each in (run.summary["provenance"] for run in runs):
        seconds = [f"{each['seconds'][phase]:.0f}" for phase in ("compile", "train")]
        rows.append([f"`{each['command']}`", commit_of(each), *seconds])
    devices, versions = made["devices"], made["versions"]
    machine = (
        f"Machine: {devices['cores']} cores of {made['machine']}; {devices['count']} "
        f"{devices['platform']} devices, matmul precision {devices['matmul_precision']}. Versions: "
        + ", ".join(f"{package} {version}" for package, version in versions.items())
        + f". Data: {made['data_checksum']}."
    )
    return f"{markdown_table(['command', 'commit', 'compile, s', 'train, s'], rows)}\n\n{machine}"


def fill_in(path: Path, sections: Mapping[str, str]) -> None:
    """Replaces what stands between `<!-- NAME -->` and `<!-- end NAME -->` in a Markdown file."""
    text = path.read_text(encoding="utf-8")
    for name, section in sections.items():
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        before, rest = text.split(start)
        _, after = rest.split(end)
        text = f"{before}{start}\n{section}\n{end}{after}"
    disk.write_text(path, text)
