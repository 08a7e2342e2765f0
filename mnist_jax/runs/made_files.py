"""What a run makes in its directory, known by name: found, and deleted where it is not needed."""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from mnist_jax import run_files
from mnist_jax.config.old_records import upgrade_record

FILES = (
    "config.json",
    "metrics.jsonl",
    "results.csv",
    "summary.json",
    "chosen_trial.npz",
    "report.md",
    "report.html",
)
"""What a run leaves in its work directory, beside `FOLDERS`."""
FOLDERS = ("figures", "checkpoints", "files", "weights", "growth")
"""What it leaves there of folders; `files` holds copies of the files of one's own."""
NAMES = {
    "checkpoints": r"processes\.json|(?:after_[0-9]+_)?(?:parts\.json|trials_[0-9]+_to_[0-9]+)",
    "figures": r"(?:accuracy_(?:curves|by_point|vs_\w+)|loss_curves|heat_map|search|"
    r"parallel_coordinates|halving|classes|mistakes|first_layer)\.(?:png|svg)",
    "weights": r"trial_[0-9]+\.npz",
    "growth": r"(?:config|parts)\.json|metrics\.jsonl|results\.csv|chosen_trial\.npz",
    "growth/weights": r"trial_[0-9]+\.npz",
    "": "|".join(map(re.escape, FILES)),
}
"""By folder, the names that a run gives to what it writes there; in `files` those of its record."""
STEP = re.compile(r"(0|[1-9][0-9]*)(\.orbax-checkpoint-tmp.*)?")
"""The names of checkpoints in a folder of `checkpoints`, and what Orbax leaves of half of one."""


def find(path: Path, form: str) -> Iterator[tuple[Path, re.Match[str]]]:
    """Yields the entries of a run's directory whose names have a form made of a run's names."""
    own: Mapping[str, str] = {}
    with contextlib.suppress(run_files.BadFileError):
        own = run_files.read_json(path / "config.json", {"files": {str: str}})["files"]
    for folder, names in (NAMES | {"files": "|".join(map(re.escape, own)) or "(?!)"}).items():
        place = path / folder
        if place.is_dir() and not (folder and place.is_symlink()):
            for entry in list(place.iterdir()):
                if match := re.fullmatch(form.format(names), entry.name):
                    yield entry, match


def delete_run(path: Path, keep: Collection[Path]) -> None:
    """Deletes what has the name of something that a run makes; no link is followed.

    Some files are kept until new ones replace them: `config.json`, which shows that the rest is a
    run's, and the copies of the user's files, which may be the only ones.
    """
    _delete(path, [found for found, _ in find(path, "{}") if found not in keep])


def delete_in(path: Path, folders: Collection[str], keep: Collection[str] = ()) -> None:
    """Deletes what `delete_run` does in some folders alone, but for some names."""
    places = [path / folder for folder in folders]
    made = [found for found, _ in find(path, "{}") if found.parent in places]
    _delete(path, [found for found in made if found.name not in keep])


def _delete(path: Path, made: Collection[Path]) -> None:
    for each in made:
        if each.is_symlink() or not each.is_dir():
            each.unlink()
        elif "trials_" in each.name:
            _delete_steps(each)
    for name in ("growth/weights", *FOLDERS):
        with contextlib.suppress(OSError):  # it holds something of the user's
            (path / name).rmdir()


def _delete_steps(folder: Path) -> None:
    """Deletes the checkpoints in a folder, and the folder unless it holds something else."""
    for entry in list(folder.iterdir()):
        if STEP.fullmatch(entry.name) and entry.is_dir():
            shutil.rmtree(entry)
    if not any(folder.iterdir()):
        folder.rmdir()


def tidy(path: Path) -> None:
    """Deletes what a finished run in a locked directory needs no more; a failure costs a line.

    These are its checkpoints, since only the record of its processes is read again, and weights
    that it was to keep no longer. A shard keeps all, since a merge may need any trial's weights.
    """
    try:
        _delete(path, not_needed(path))
    except OSError as error:
        print(f"warning: {error.filename} cannot be deleted ({error.strerror})", file=sys.stderr)


def not_needed(path: Path) -> list[Path]:
    """Returns what `tidy` deletes."""
    config = upgrade_record(run_files.read_json(path / "config.json", run_files.CONFIG))
    if config["shard"] != "0/1":
        return []
    folders = [path / "checkpoints", path / "growth", path / "growth/weights"]
    if config["keep_weights"] == "chosen":
        folders.append(path / "weights")
    made = [found for found, _ in find(path, "{}") if found.parent in folders]
    return [found for found in made if found.name != "processes.json"]


def delete_leftovers(path: Path) -> None:
    """Deletes the temporary files of `disk.replace` in processes that have ended."""
    for file, match in find(path, r"\.(?:{})\.([0-9]+)"):
        if not _lives(int(match[1])):
            file.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Says whether another process has this number."""
    if process == os.getpid():  # as in a container, where the run before had the same
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
