"""Says whether two commits train the same recipes to the same bits, on this machine.

    python tests/compare_commits.py OLD [NEW]

Every config of the older commit trains for two epochs on digits, by the notebook's protocol and by
an honest one, in a checkout of either commit (NEW is HEAD by default), and `metrics.jsonl` must be
equal byte for byte. To be run before and after whatever redesigns the training; status 1 tells of
a difference. Not collected by pytest: it needs both commits, and three minutes.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROTOCOLS = ("as it is", "with validation images")


def check_out(commit: str, folder: Path) -> None:
    """Writes the files of a commit into a new folder."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)


def options(checkout: Path, protocol: str) -> list[str]:
    """Returns what to type, since old commits have no key for the protocol."""
    if protocol == "as it is":
        return []
    one_key = any((checkout / "mnist_jax").glob("**/axes.py"))
    chosen = "--config.protocol=validation" if one_key else "--config.choose_epoch=True"
    return [chosen, "--config.num_validation=200"]


def train(checkout: Path, config: str, protocol: str, workdir: Path) -> bytes:
    """Returns the metrics of a config's run, or what the program said instead."""
    command = [sys.executable, "-m", "mnist_jax.main", f"--config=configs/{config}"]
    command += ["--config.dataset=digits", "--config.num_epochs=2", f"--workdir={workdir}"]
    command += options(checkout, protocol)
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(
        command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    metrics = workdir / "metrics.jsonl"
    return done.stderr if done.returncode else metrics.read_bytes()


def main(old: str, new: str = "HEAD") -> None:
    """Compares two commits, config by config."""
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        checkouts = [Path(folder, side) for side in ("old", "new")]
        for commit, checkout in zip((old, new), checkouts, strict=True):
            check_out(commit, checkout)
        for config in sorted(path.name for path in (checkouts[0] / "configs").glob("*.py")):
            for protocol in PROTOCOLS:
                runs = Path(folder, "runs", config, protocol.replace(" ", "_"))
                found = [train(x, config, protocol, runs / x.name) for x in checkouts]
                same = found[0] == found[1] and found[0].startswith(b"{")
                different += not same
                print(f"{config} {protocol}: {'equal' if same else 'DIFFERENT'}", flush=True)
                if not same:
                    print(*(text[-300:].decode(errors="replace") for text in found), sep="\n---\n")
    sys.exit(different > 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
