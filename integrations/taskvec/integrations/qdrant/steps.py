"""Workflows as generators of steps, so that blocking and awaiting clients share every line."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

from taskvec.core import Embedder
from taskvec.integrations.qdrant.retrying import aasking, asking, sentences

T = TypeVar("T")


@dataclass(frozen=True)
class Tools:
    """What steps are done with. turn: held while a client that takes one call at a time works."""

    client: Any
    collection: str
    embedder: Embedder
    retries: int
    turn: AbstractContextManager[Any]


class Step(Protocol):
    """Something to be done outside; a workflow yields it and is sent its result."""

    def do(self, tools: Tools) -> Any:
        """Do it, blocking."""

    async def ado(self, tools: Tools) -> Any:
        """Do it, awaited."""


Steps: TypeAlias = Generator[Step, Any, T]


@dataclass(frozen=True)
class Ask:
    """A call of Qdrant's client, with the collection's name before the arguments.

    Raises StoreError where the server fails or refuses.
    """

    method: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def do(self, tools: Tools) -> Any:
        """Call it, again while its failures may pass."""
        call = getattr(tools.client, self.method)
        with tools.turn, sentences(tools.collection):
            return asking(tools.retries)(call, tools.collection, **self.arguments)

    async def ado(self, tools: Tools) -> Any:
        """`do`, awaited."""
        call = getattr(tools.client, self.method)
        with sentences(tools.collection):
            return await aasking(tools.retries)(call, tools.collection, **self.arguments)


@dataclass(frozen=True)
class Work:
    """A step of calculation, which would hold up an event loop."""

    function: Callable[[], Any]

    def do(self, tools: Tools) -> Any:  # noqa: ARG002 - as every step
        """Do it."""
        return self.function()

    async def ado(self, tools: Tools) -> Any:  # noqa: ARG002 - as every step
        """Do it in a thread."""
        return await asyncio.to_thread(self.function)


def run(steps: Steps[T], tools: Tools) -> T:
    """Do a workflow's steps and return its result; what a step raises is raised in it."""
    try:
        step = next(steps)
        while True:
            try:
                done = step.do(tools)
            except Exception as error:  # noqa: BLE001 - the workflow's to handle
                step = steps.throw(error)
            else:
                step = steps.send(done)
    except StopIteration as end:
        result: T = end.value
        return result


async def arun(steps: Steps[T], tools: Tools) -> T:
    """`run`, awaited."""
    try:
        step = next(steps)
        while True:
            try:
                done = await step.ado(tools)
            except Exception as error:  # noqa: BLE001 - the workflow's to handle
                step = steps.throw(error)
            else:
                step = steps.send(done)
    except StopIteration as end:
        result: T = end.value
        return result
