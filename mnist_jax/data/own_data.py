"""The user's own data set: a path to any files of small labelled images.

`readers` has one file for each format, `normalise` what must hold of all. The cache keeps the
arrays; a copy is used only while every file that it came from is unchanged.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from mnist_jax.data import cache, formats
from mnist_jax.data.datasets import name_of
from mnist_jax.data.normalise import normalise
from mnist_jax.data.readers import csv_table, idx, npz, parquet, pictures, raw
from mnist_jax.data.readers.raw import bad
from mnist_jax.data.splits import ARRAY_NAMES, Dataset
from mnist_jax.text import first_of

_TABLES = (npz, csv_table, parquet, idx)
EXPECTED = (
    "an npz file, a CSV or Parquet table, IDX files, or a folder with these or with train/ and"
    " test/ of one folder of PNG or JPEG a class"
)
_ARRAYS = "save its arrays by np.savez(FILE, x_train=..., y_train=..., x_test=..., y_test=...)"
_REFUSED = {
    (".pkl", ".pickle", ".pkl.gz", ".joblib", ".pt", ".pth"): (
        f"a pickle, which is never opened, since it may run any code; {_ARRAYS}"
    ),
    (".mat", ".h5", ".hdf5"): f"a format that is not read; {_ARRAYS}",
    (".tsv", ".tab"): "a table with tabs; save it with commas, as .csv",
    (".npy",): f"a single array; {_ARRAYS}",
    (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"): (
        "an archive; unpack it and give the folder"
    ),
}
"""What is not read, by the ends of names; why; and what to do."""


_log = logging.getLogger(__name__)


def load(path: Path) -> Dataset:
    """Loads and checks the data set that lies at a path, or its copy in the cache.

    Raises:
        UserError: There is none; its files are damaged, or hold what no data set can be.
    """
    path = Path(os.path.abspath(path))
    if not str(path).isprintable():
        raise bad(path, "its name has control characters; rename it")
    if not path.name:
        raise bad(path, f"it has no name; give {EXPECTED}")
    found = _find(path)
    stamps = _stamps(path, found.files)
    key = f"own-{hashlib.sha256(str(path).encode()).hexdigest()[:32]}"
    cache.remove_leftovers(key)
    if cached := cache.read_own(key, 3 * raw.MOST_BYTES, stamps):
        (arrays, checksum, source), facts = cached
        class_names = tuple(facts["class_names"])
        for text in facts["cautions"]:
            _log.warning("%s", text)
    else:
        with raw.cautions() as told:
            data = found.read()
            arrays, class_names = normalise(data)
        if stamps != _stamps(path, found.files):
            raise bad(path, "its files changed while they were read; start again")
        checksum = formats.checksum(arrays)
        floats = ", of floats" if arrays[0].dtype.kind == "f" else ""
        guess = f", {data.guess}" if data.guess else ""
        source = f"{found.form} {path}{floats}{guess}"
        named = dict(zip(ARRAY_NAMES, arrays, strict=True))
        facts = {"class_names": class_names, "cautions": told}
        cache.write(key, named, checksum, source, stamps, facts)
    images, labels, test_images, test_labels = arrays
    training = (images, labels, images[:0], labels[:0])
    return Dataset(
        name_of(str(path)), *training, test_images, test_labels, class_names, checksum, source
    )


def _find(path: Path) -> raw.Found:
    try:
        os.stat(path)
    except OSError as error:
        problem = f"it cannot be found ({error.strerror}); expected {EXPECTED}"
        raise bad(path, problem) from None
    is_folder = os.path.isdir(path)
    if not is_folder and not os.path.isfile(path):
        raise bad(path, f"it is neither a file nor a folder; give {EXPECTED}")
    found = [each for reader in _TABLES if (each := reader.find(path))]
    if len(found) > 1:
        forms = " and ".join(each.form for each in found)
        raise bad(path, f"it holds {forms}; give the path of the one to use")
    if found and is_folder and pictures.holds_classes(path):
        problem = f"it holds {found[0].form} and folders of pictures"
        raise bad(path, f"{problem}; move away what is not to be used")
    if not found and is_folder and (each := pictures.find(path)):
        found = [each]
    if found:
        return found[0]
    children = raw.children(path) if is_folder else []
    tables = [child for child in children if any(reader.find(child) for reader in _TABLES)]
    if len(tables) == 1:
        raise bad(path, f"it holds {tables[0].name}; give the path of that")
    if tables:
        names = first_of([table.name for table in tables], 5)
        problem = f"it holds {names}, none with the word train in its name"
        raise bad(path, f"{problem}; give the path of one, or rename them")
    for child in children or [path]:
        for ends, why in _REFUSED.items():
            if child.name.lower().endswith(ends):
                raise bad(child, f"it is {why}")
    if is_folder:
        names = first_of([child.name for child in children], 5) or "nothing"
        raise bad(path, f"it holds {names}; expected {EXPECTED}")
    kind = formats.kind_of_file(path) or "of no kind that is read"
    raise bad(path, f"it is {kind}; expected {EXPECTED}")


def _stamps(path: Path, files: Sequence[str | Path]) -> list:
    """Returns what changes when one of the files does; of many a digest."""
    stamps = [cache.stamp(file) for file in files]
    if len(stamps) <= 100:
        return stamps
    digest = hashlib.sha256(repr(stamps).encode("utf-8", "backslashreplace"))
    return [str(path), len(stamps), digest.hexdigest()]
