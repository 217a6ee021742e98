"""Qdrant clients of tests: in local mode, or of the server that TASKVEC_TEST_QDRANT_URL names."""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from qdrant_client import AsyncQdrantClient, QdrantClient

URL = os.environ.get("TASKVEC_TEST_QDRANT_URL")
Client = TypeVar("Client")


@dataclass
class Clients(Generic[Client]):
    """A client, and names for collections that are deleted in the end."""

    client: Client
    names: list[str] = field(default_factory=list)

    def name(self) -> str:
        """A name that no collection has."""
        self.names.append(f"test_{uuid.uuid4().hex}")
        return self.names[-1]


@contextmanager
def clients() -> Iterator[Clients[QdrantClient]]:
    """A blocking client."""
    made = Clients(QdrantClient(URL) if URL else QdrantClient(":memory:"))
    try:
        yield made
    finally:
        for name in made.names:
            with suppress(ValueError):  # local mode's, for one that was never made
                made.client.delete_collection(name)
        made.client.close()


@asynccontextmanager
async def aclients() -> AsyncIterator[Clients[AsyncQdrantClient]]:
    """An awaiting client."""
    made = Clients(AsyncQdrantClient(URL) if URL else AsyncQdrantClient(":memory:"))
    try:
        yield made
    finally:
        for name in made.names:
            with suppress(ValueError):
                await made.client.delete_collection(name)
        await made.client.close()
