"""Downloads of a data set's files, whose sizes and checksums are known beforehand."""

import hashlib
import io
import logging
import re
import threading
from urllib.parse import urlsplit

from mnist_jax.data import formats
from mnist_jax.text import error_line, one_line

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
LEAST_SPEED = 5_000.0  # bytes per second; Fashion-MNIST's 26 MB then take 90 minutes
LARGE = 100_000_000  # bytes, from which on people are told the size

_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)  # people are told of a download, which they may not have asked for


def fetch_files(
    name: str, tfds_name: str, files: tuple[str, ...]
) -> tuple[dict[str, io.BytesIO], str]:
    """Fetches files from the first address that has them, with tensorflow-datasets' checksums.

    An address that fails is not asked for the other files.

    Args:
        name: Of the data set.
        tfds_name: The same in tensorflow-datasets.
        files: The names of the files.

    Returns:
        The contents by address, in the order of `files`; and the addresses that were used, for
        people.

    Raises:
        ConnectionError: No address has all files; the message has the reasons, with their hosts.
    """
    import tensorflow_datasets as tfds

    infos = tfds.builder_cls(tfds_name).url_infos
    url_of = {url.rpartition("/")[2]: url for url in infos}
    first = url_of[files[0]].removesuffix(files[0])
    hosts, failures = [first, *MIRRORS.get(name, ())], dict[str, list[str]]()
    contents, served = {}, {}
    for file in files:
        expected = infos[url_of[file]]
        size = f" ({expected.size / 1e6:.0f} MB)" if expected.size > LARGE else ""
        while hosts:
            if hosts[0] not in served:
                _log.info("downloading %s%s from %s", name, size, hosts[0])
            url = f"{hosts[0]}{file}"
            try:
                contents[url] = fetch(url, expected.size, expected.checksum)
                served[hosts[0]] = True
                break
            except Exception as error:  # no network or server, wrong bytes
                failures.setdefault(_reason(error), []).append(urlsplit(hosts.pop(0)).netloc)
        else:
            reasons = (f"{why}: {', '.join(at)}" for why, at in failures.items())
            raise ConnectionError("; ".join(reasons))
    return contents, " and ".join(served)


def _reason(error: Exception) -> str:
    """Returns in a few words why a download failed."""
    text = str(error)
    if "NameResolutionError" in text:
        return "no such host"
    if (status := getattr(getattr(error, "response", None), "status_code", 0)) >= 400:
        return f"HTTP status {status}"
    if of_system := re.search(r"\[Errno -?\d+\] ([^'\")\]]+)", text):
        return of_system[1].lower()
    if isinstance(error, TimeoutError | ValueError):  # of `_fetch_once`
        return one_line(text)
    return error_line(error, 100)


def fetch(url: str, size: int, sha256: str) -> io.BytesIO:
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


def _fetch_once(url: str, size: int, sha256: str) -> io.BytesIO:
    import requests

    content, failures = io.BytesIO(), list[Exception]()  # which holds large files once
    given_up = threading.Event()

    def read():
        try:
            # Much longer than the loop below waits: this ends a thread that was left behind.
            with requests.get(url, stream=True, timeout=4 * TIMEOUT_S) as response:
                response.raise_for_status()
                for block in response.iter_content(2**13):
                    content.write(block)
                    if content.tell() > size or given_up.is_set():
                        break
        except Exception as error:
            failures.append(error)

    # A thread can be left behind, whereas a name lookup can be neither limited nor interrupted.
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    while thread.is_alive():
        before = content.tell()
        thread.join(TIMEOUT_S)
        came = content.tell() - before
        if thread.is_alive() and came < LEAST_SPEED * TIMEOUT_S:
            given_up.set()
            amount = f"only {came} bytes" if came else "nothing"
            raise TimeoutError(f"{amount} came for {TIMEOUT_S:g} s")
    if failures:
        raise failures[0]
    length = content.tell()
    content.seek(0)
    if length != size:
        least = "more than " if length > size else ""
        head = content.read(formats.HEAD)
        kind = None if head.startswith((b"\x1f\x8b", b"PK")) else formats.kind_of(head)
        what = f": it is {kind}" if kind else ""
        raise ValueError(f"{url} has {least}{min(length, size)} bytes, not {size}{what}")
    found = hashlib.sha256(content.getbuffer()).hexdigest()
    if found != sha256:
        raise ValueError(f"{url} has SHA-256 {found}, not {sha256}")
    return content
