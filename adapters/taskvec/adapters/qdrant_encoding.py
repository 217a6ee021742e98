"""What a call of Qdrant's client needs encoded, and how to encode it in as few passes as can be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from taskvec.core import Embedder, Roles
from taskvec.core.embedder import Array, Lane
from taskvec.core.errors import DimensionError, InputError, TaskError
from taskvec.core.pooling import check_dim, cut

PREFIX = "taskvec/"
BATCH = 64  # texts per encoding; the client's own default of 8 is for another kind of model


class Key(NamedTuple):
    """What one vector depends on. embedder: its `id`. dim: None is the full one."""

    embedder: int
    text: str
    task: str | None
    dim: int | None


@dataclass(frozen=True)
class Encoding:
    """What one model name stands for."""

    embedder: Embedder
    roles: Roles
    dim: int | None

    def key(self, text: str, options: Mapping[str, Any] | None, *, is_query: bool) -> Key:
        """What a document of these options asks for. Raises InputError for other options."""
        options = options or {}
        if unknown := set(options) - {"task", "dim"}:
            raise InputError(
                f"unknown options {sorted(unknown)} of a Document: use 'task' and 'dim'"
            )
        task = options.get("task", self.roles.query if is_query else self.roles.passage)
        if not isinstance(task, str | None):
            raise TaskError(f"unknown task {task!r} of a Document: give one name, or None")
        dim = options.get("dim", self.dim)
        if not isinstance(dim, int | None):
            raise DimensionError(f"unknown dim {dim!r} of a Document: give a number, or None")
        return Key(id(self.embedder), text, task, dim)


@dataclass(frozen=True)
class Pass:
    """One encoding: every text once under each of its tasks, at the largest dim of all."""

    embedder: Embedder
    keys: Sequence[Key]
    is_query: bool

    def request(self) -> dict[str, Any]:
        """The arguments of `Embedder.encode`."""
        rows, tasks = self._rows(), {key.task for key in self.keys}
        dims = {key.dim for key in self.keys}
        lane: Lane = "query" if self.is_query else "bulk"
        return {
            "texts": [text for text, _ in rows],
            "task": tasks.pop() if len(tasks) == 1 else [task for _, task in rows],
            "dim": None if None in dims else max(dim for dim in dims if dim is not None),
            "lane": lane,
        }

    def made(self, vectors: Array) -> dict[Key, Array]:
        """The vector of each key, from those of the request. Raises DimensionError."""
        rows = self._rows()
        dims: dict[int | None, Array] = {}
        for dim in dict.fromkeys(key.dim for key in self.keys):
            # The encoder has checked the largest, and may still be loading when it is asked.
            whole = dim is None or dim == vectors.shape[1]
            dims[dim] = vectors if whole else cut(vectors, check_dim(dim, self.embedder.dims))
        return {key: dims[key.dim][rows[key.text, key.task]] for key in self.keys}

    def _rows(self) -> dict[tuple[str, str | None], int]:
        names = dict.fromkeys((key.text, key.task) for key in self.keys)
        return {name: i for i, name in enumerate(names)}


def encoded(passes: Sequence[Pass]) -> dict[Key, Array]:
    """The vectors of all passes."""
    made: dict[Key, Array] = {}
    for one in passes:
        made |= one.made(one.embedder.encode(**one.request()))
    return made


async def aencoded(passes: Sequence[Pass]) -> dict[Key, Array]:
    """`encoded`, awaited."""
    made: dict[Key, Array] = {}
    for one in passes:
        made |= one.made(await one.embedder.aencode(**one.request()))
    return made
