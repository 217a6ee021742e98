"""What callers hand in, checked before any work is done."""

from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from taskvec.core.embedder import Lane, Overflow, TaskArgument
from taskvec.core.errors import InputError, TaskError


def check_texts(texts: object) -> list[str]:
    """One text or many as a list. Raises InputError naming the first item that is no str."""
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping):
        raise InputError(f"texts is {type(texts).__name__}: expected str or a list of str")
    checked = list(texts)
    for i, text in enumerate(checked):
        if not isinstance(text, str):
            raise InputError(f"texts[{i}] is {type(text).__name__}: expected str")
    return checked


def check_several(texts: object, name: str = "texts") -> None:
    """Raises InputError for a lone str where a list belongs: its characters are no texts."""
    if isinstance(texts, str | bytes):
        raise InputError(f"{name} is {type(texts).__name__}: expected a list of str")


def check_text(document: str) -> str:
    """A single text. Raises InputError for anything but a str."""
    if not isinstance(document, str):
        raise InputError(f"document is {type(document).__name__}: expected str")
    return document


def check_tasks(task: TaskArgument, count: int, known: Sequence[str]) -> list[str | None]:
    """One task per text. Raises TaskError for an unknown one, InputError for a wrong count."""
    if task is None or isinstance(task, str):
        check_task(task, known)
        return [task] * count
    if not isinstance(task, Iterable):
        raise TaskError(f"task is {type(task).__name__}: expected a name, None, or one per text")
    tasks = list(task)
    if len(tasks) != count:
        raise InputError(f"{len(tasks)} tasks for {count} texts: give one task, or one per text")
    for i, name in enumerate(tasks):
        check_task(name, known, where=f"task[{i}]: ")
    return tasks


def check_task(task: str | None, known: Sequence[str], *, where: str = "") -> None:
    """Raises TaskError unless `task` is None or one of `known`."""
    if task is not None and task not in known:
        raise TaskError(f"{where}unknown task {task!r}: use None or one of {tuple(known)}")


def check_lane(lane: str) -> None:
    """Raises InputError for an unknown lane."""
    if lane not in get_args(Lane):
        raise InputError(f"unknown lane {lane!r}: use 'query' or 'bulk'")


def check_overflow(overflow: str) -> None:
    """Raises InputError for an unknown overflow rule."""
    if overflow not in get_args(Overflow):
        raise InputError(f"unknown overflow {overflow!r}: use 'truncate' or 'error'")


def check_positive(name: str, value: int | None, *, low: int = 1, high: int | None = None) -> None:
    """Raises InputError unless `value` is None or a whole number of [low, high]."""
    if value is None:
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"{name} is {value!r}: expected a whole number {limits}")


def check_number(name: str, value: int, *, low: int = 1) -> None:
    """Raises InputError unless `value` is a whole number at least `low`."""
    if value is None:
        raise InputError(f"{name} is None: expected a whole number at least {low}")
    check_positive(name, value, low=low)


def check_seconds(name: str, value: float) -> None:
    """Raises InputError unless `value` is a number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise InputError(f"{name} is {value!r}: expected a number of seconds above 0")
