"""Finds the files to index: walks folders, and remembers what it passed over and why."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskvec.core.errors import InputError

BYPASSED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages"})
BINARY_SUFFIXES = frozenset({
    ".7z", ".a", ".avi", ".bmp", ".bz2", ".class", ".db", ".dll", ".dylib", ".eot", ".exe",
    ".flac", ".gguf", ".gif", ".gz", ".ico", ".jar", ".jpeg", ".jpg", ".lib", ".m4a", ".mkv",
    ".mov", ".mp3", ".mp4", ".npy", ".npz", ".o", ".obj", ".odt", ".ogg", ".onnx", ".otf",
    ".parquet", ".pkl", ".png", ".psd", ".pt", ".pth", ".pyc", ".pyd", ".rar", ".safetensors",
    ".so", ".sqlite", ".tar", ".tgz", ".tif", ".tiff", ".ttf", ".wav", ".webm", ".webp", ".whl",
    ".woff", ".woff2", ".xz", ".zip", ".zst",
})  # fmt: skip


@dataclass(frozen=True)
class Passed:
    """A path that was not indexed, and why."""

    path: str
    reason: str


@dataclass
class Found:
    """What a walk over the given paths brought.

    files: path by source name. roots: source names of the given paths. skipped: paths left out
    on purpose. problems: paths that could not be read. gone: given paths that do not exist.
    """

    files: dict[str, Path] = field(default_factory=dict)
    roots: list[str] = field(default_factory=list)
    skipped: list[Passed] = field(default_factory=list)
    problems: list[Passed] = field(default_factory=list)
    gone: list[Path] = field(default_factory=list)


def source_name(path: Path) -> str:
    """The name under which a file is stored: its absolute path, as text any database takes.

    Bytes of a file name that are not UTF-8 appear as escapes.
    """
    return os.fsencode(path.absolute()).decode("utf-8", "backslashreplace")


def is_under(source: str, root: str) -> bool:
    """Whether a source is a root itself or lies in it."""
    return source == root or source.startswith(root.rstrip(os.sep) + os.sep)


def short_path(source: str) -> str:
    """A source as the user sees it: from the present folder, where it lies below."""
    return source.removeprefix(source_name(Path.cwd()).rstrip(os.sep) + os.sep)


def find_files(paths: Sequence[str], *, exclude: Path | None = None) -> Found:
    """All files to index under the given paths, each once, in a stable order.

    Folders that are hidden, hold installed packages or are `exclude` (the store's own) are passed
    over, and so are files of binary formats, unless they were given by name. Symbolic links are
    followed, loops once.
    """
    found = Found()
    seen: set[tuple[int, int]] = set()
    for given in paths:
        path = _normal(given)
        found.roots.append(source_name(path))
        if not os.path.lexists(path):
            found.gone.append(path)
        elif os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir it never raises
            _walk(path, found, seen, exclude)
        else:
            _add(path, found)
    return found


def _normal(given: str) -> Path:
    if not given or "\0" in given:
        raise InputError(f"{given!r} is not a path: give a file or a folder")
    path = Path(os.path.expanduser(given)).absolute()  # noqa: PTH111 - Path's raises for ~nobody
    # What ".." means after a symbolic link is for the file system to say.
    return Path(os.path.realpath(path)) if ".." in path.parts else path


def _walk(folder: Path, found: Found, seen: set[tuple[int, int]], exclude: Path | None) -> None:
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            status = current.stat()
            entries = sorted(current.iterdir())
        except OSError as error:
            found.problems.append(_problem(current, error))
            continue
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            waiting.extend(reversed(list(_sort_out(entries, found, exclude))))


def _sort_out(entries: Sequence[Path], found: Found, exclude: Path | None) -> Iterator[Path]:
    """Add the files among the entries; yield the folders to walk."""
    for entry in entries:
        try:
            reason, is_folder = _reason_to_pass(entry, exclude), entry.is_dir()
        except OSError as error:
            found.problems.append(_problem(entry, error))
            continue
        if reason:
            found.skipped.append(Passed(source_name(entry), reason))
        elif is_folder:
            yield entry
        else:
            _add(entry, found)


def _reason_to_pass(entry: Path, exclude: Path | None) -> str:
    if entry.name.startswith("."):
        return "hidden"
    if not entry.is_dir():
        return "not text" if entry.suffix.lower() in BINARY_SUFFIXES else ""
    if exclude is not None and os.path.realpath(entry) == str(exclude):
        return "the store"
    if entry.name in BYPASSED_FOLDERS or (entry / "pyvenv.cfg").exists():
        return "installed or generated"
    return ""


def _add(path: Path, found: Found) -> None:
    try:
        is_file, is_there = path.is_file(), path.exists()
    except OSError as error:
        found.problems.append(_problem(path, error))
        return
    if is_file:
        found.files[source_name(path)] = path
    else:
        reason = "not a regular file" if is_there else "a link to nothing"
        found.problems.append(Passed(source_name(path), reason))


def _problem(path: Path, error: OSError) -> Passed:
    return Passed(source_name(path), (error.strerror or str(error)).lower())
