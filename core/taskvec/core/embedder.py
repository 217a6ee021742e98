"""What adapters know of an encoder: the Embedder protocol, and roles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from taskvec.core.errors import InputError

Array: TypeAlias = npt.NDArray[np.float32]
Lane: TypeAlias = Literal["query", "bulk"]
Overflow: TypeAlias = Literal["truncate", "error"]
Role: TypeAlias = Literal["query", "passage"]
Span: TypeAlias = tuple[int, int]
TaskArgument: TypeAlias = str | Sequence[str | None] | None


@runtime_checkable
class Embedder(Protocol):
    """An encoder, in this process or behind HTTP. Every method may be called from any thread."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the model has a LoRA for."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Matryoshka dims that the model was trained for, ascending."""

    @property
    def dim(self) -> int:
        """The full dim: the largest of `dims`."""

    @property
    def max_tokens(self) -> int:
        """The context in tokens, specials and prompt included."""

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        task: TaskArgument = None,
        dim: int | None = None,
        lane: Lane = "bulk",
        overflow: Overflow = "truncate",
        show_progress: bool = False,
    ) -> Array:
        """Vectors of texts: (B, dim) float32 of unit L2 norm; (dim,) for a single str."""

    async def aencode(
        self,
        texts: str | Sequence[str],
        *,
        task: TaskArgument = None,
        dim: int | None = None,
        lane: Lane = "bulk",
        overflow: Overflow = "truncate",
        show_progress: bool = False,
    ) -> Array:
        """`encode`, awaited."""

    def encode_chunks(
        self,
        document: str,
        spans: Sequence[Span],
        *,
        task: str | None = "retrieval.passage",
        dim: int | None = None,
    ) -> Array:
        """Late chunking: one vector per [start, end) span of characters, (K, dim)."""

    async def aencode_chunks(
        self,
        document: str,
        spans: Sequence[Span],
        *,
        task: str | None = "retrieval.passage",
        dim: int | None = None,
    ) -> Array:
        """`encode_chunks`, awaited."""

    def fingerprint(self, task: str | None = None, dim: int | None = None) -> str:
        """A string that changes exactly when the vectors of this task and dim would."""


@dataclass(frozen=True)
class Roles:
    """Which task serves which role: a framework call implies the role, the role the task."""

    query: str | None = "retrieval.query"
    passage: str | None = "retrieval.passage"

    @classmethod
    def symmetric(cls, task: str | None) -> "Roles":
        """Both roles served by one task, such as "text-matching"."""
        return cls(query=task, passage=task)

    @classmethod
    def choose(cls, task: str | None, query_task: str | None, passage_task: str | None) -> "Roles":
        """The roles that an adapter's three options ask for: `task` is a shorthand for both."""
        return cls(query_task, passage_task) if task is None else cls.symmetric(task)

    def task(self, role: Role) -> str | None:
        """The task of a role. Raises InputError for anything but "query" and "passage"."""
        if role == "query":
            return self.query
        if role == "passage":
            return self.passage
        raise InputError(f"unknown role {role!r}: use 'query' or 'passage'")
