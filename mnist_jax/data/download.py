"""Downloads of a data set's files, whose sizes and checksums are known beforehand."""

import hashlib
import logging
import threading

from mnist_jax.data import formats
from mnist_jax.text import error_line

MIRRORS = {
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist/",),
    "fashion_mnist": (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    "kmnist": ("https://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
}
"""Other addresses of the same files, after the one that tensorflow-datasets keeps."""
TIMEOUT_S = 15.0  # in which at least LEAST_SPEED * TIMEOUT_S bytes must come
LEAST_SPEED = 5_000.0  # bytes per second; 26 MB, the largest file, then take 90 minutes

_log = logging.getLogger(__name__)


def fetch_files(name: str, files: tuple[str, ...]) -> tuple[dict[str, bytes], str]:
    """Fetches files from the first address that has them, with tensorflow-datasets' checksums.

    An address that fails is not asked for the other files.

    Returns:
        The contents by address, in the order of `files`; and the addresses that were used, for
        people.

    Raises:
        ConnectionError: No address has all files; the message has the failure of each.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder_cls(name)
    hosts, failures = [builder.URL, *MIRRORS[name]], []
    contents, served = {}, {}
    for file in files:
        expected = builder.url_infos[f"{builder.URL}{file}"]
        while hosts:
            if hosts[0] not in served:
                _log.warning("downloading %s from %s", name, hosts[0])
            url = f"{hosts[0]}{file}"
            try:
                contents[url] = fetch(url, expected.size, expected.checksum)
                served[hosts[0]] = True
                break
            except Exception as error:  # no network or server, wrong bytes
                failures.append(f"from {hosts.pop(0)} failed ({error_line(error)})")
        else:
            raise ConnectionError(", ".join(failures))
    return contents, " and ".join(served)


def fetch(url: str, size: int, sha256: str) -> bytes:
    """Downloads a file of known size and checksum into memory; retries a failure once.

    A server that was too slow is not asked again. tensorflow-datasets' DownloadManager does not do:
    it waits without limit for a silent server, and minutes for an unreachable one; it saves all
    that a server sends; and its threads keep the process alive.

    Raises:
        Exception: TimeoutError, ValueError, or an exception of requests.
    """
    try:
        return _fetch_once(url, size, sha256)
    except TimeoutError:
        raise
    except Exception:
        return _fetch_once(url, size, sha256)


def _fetch_once(url: str, size: int, sha256: str) -> bytes:
    import requests

    content, failures = bytearray(), []
    given_up = threading.Event()

    def read():
        try:
            # Much longer than the loop below waits: this ends a thread that was left behind.
            with requests.get(url, stream=True, timeout=4 * TIMEOUT_S) as response:
                response.raise_for_status()
                for block in response.iter_content(2**13):
                    content.extend(block)
                    if len(content) > size or given_up.is_set():
                        break
        except Exception as error:
            failures.append(error)

    # A thread can be left behind, whereas a name lookup can be neither limited nor interrupted.
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    while thread.is_alive():
        before = len(content)
        thread.join(TIMEOUT_S)
        came = len(content) - before
        if thread.is_alive() and came < LEAST_SPEED * TIMEOUT_S:
            given_up.set()
            amount = f"only {came} bytes" if came else "nothing"
            raise TimeoutError(f"{amount} came for {TIMEOUT_S:g} s")
    if failures:
        raise failures[0]
    if len(content) != size:
        least = "more than " if len(content) > size else ""
        kind = formats.kind_of(bytes(content))
        what = f": it is {kind}" if kind and not content.startswith(b"\x1f\x8b") else ""
        raise ValueError(f"{url} has {least}{min(len(content), size)} bytes, not {size}{what}")
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{url} has SHA-256 {found}, not {sha256}")
    return bytes(content)
