"""`taskvec encode`: texts in, vectors out."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from taskvec.core.embedder import Array
from taskvec.core.errors import InputError
from taskvec.integrations.cli.encoders import open_embedder, resolve_dim

BATCH = 256
STANDARD_INPUT = ["-"]


def run(arguments: argparse.Namespace) -> int:
    """Encode the given texts, or the lines of standard input."""
    if arguments.format == "npy" and not arguments.output:
        raise InputError("--format npy writes a file: name it with --output")
    texts = _texts(arguments.texts)
    embedder = open_embedder(arguments.model)
    dim = resolve_dim(embedder, arguments.dim)
    # Checked by an empty call, so that a wrong task is reported before any input is read.
    embedder.encode([], task=arguments.task, dim=dim)
    batches = (
        embedder.encode(batch, task=arguments.task, dim=dim) for batch in _batches(texts, BATCH)
    )
    if arguments.output is None:
        _write_json(sys.stdout, batches)
    elif arguments.format == "npy":
        with _replaced(arguments.output, "wb") as stream:
            _write_npy(stream, batches, dim)
    else:
        with _replaced(arguments.output, "w") as stream:
            _write_json(stream, batches)
    return 0


def _texts(given: Sequence[str]) -> Iterable[str]:
    if given and list(given) != STANDARD_INPUT:
        return given
    if not given and sys.stdin.isatty():
        raise InputError("nothing to encode: give a TEXT, or - to read lines")
    return _lines()


def _lines() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise InputError(f"line {number} of standard input is not UTF-8") from None


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@contextmanager
def _replaced(output: str, mode: str) -> Iterator[IO[Any]]:
    """A stream whose contents take the file's place at the end; a failure leaves it as it was."""
    # Not the link: what it leads to.
    target = Path(os.path.realpath(output))
    encoding = None if "b" in mode else "utf-8"
    if target.exists() and not target.is_file():
        # Pipes and devices are written to; a folder fails here.
        with target.open(mode, encoding=encoding) as stream:
            yield stream
        return
    part = target.with_name(f".taskvec-{os.getpid()}.part")
    try:
        with _opened(part, mode.replace("w", "x"), encoding, output) as stream:
            yield stream
        if target.exists():
            part.chmod(target.stat().st_mode)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _opened(part: Path, mode: str, encoding: str | None, output: str) -> IO[Any]:
    try:
        return part.open(mode, encoding=encoding)
    except OSError as error:
        error.filename = output
        raise


def _write_json(stream: IO[str], batches: Iterable[Array]) -> None:
    index = 0
    for vectors in batches:
        for vector in vectors:
            # The shortest decimals that give the same float32 back.
            numbers = ", ".join(np.format_float_positional(x, trim="0") for x in vector)
            stream.write(f'{{"index": {json.dumps(index)}, "vector": [{numbers}]}}\n')
            index += 1


def _write_npy(stream: IO[bytes], batches: Iterable[Array], dim: int) -> None:
    # An open file, since numpy would add a suffix to a name that has none.
    np.save(stream, np.concatenate([np.zeros((0, dim), dtype=np.float32), *batches]))
