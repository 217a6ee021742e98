"""What blocking and awaiting collections have in common."""

import threading
from collections.abc import Mapping, Sized
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from qdrant_client import AsyncQdrantClient, QdrantClient

from taskvec.core import Embedder, Roles
from taskvec.core.errors import InputError
from taskvec.core.inputs import check_number, check_several
from taskvec.integrations.cli.stores.qdrant import hasten_folder, is_embedded
from taskvec.integrations.qdrant.documents import check_id
from taskvec.integrations.qdrant.layout import (
    Quantization,
    dense_vectors,
    payload_indexes,
    sparse_vectors,
)
from taskvec.integrations.qdrant.settings import Settings
from taskvec.integrations.qdrant.steps import Tools


class Collection:
    """An open collection: what it was made with, and what its steps are done with."""

    def __init__(self, tools: Tools, settings: Settings, roles: Roles) -> None:
        hasten_folder(tools.client, tools.collection)
        self._tools = tools
        self._settings = settings
        self._roles = roles

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._tools.collection

    @property
    def dims(self) -> tuple[int, ...]:
        """The dims of its vectors, ascending; the largest ranks."""
        return self._settings.dims

    @property
    def late_chunking(self) -> bool:
        """Whether a chunk's vectors know the text around it."""
        return self._settings.late_chunking

    @property
    def hybrid(self) -> bool:
        """Whether it has sparse vectors, too."""
        return self._settings.sparse is not None

    @property
    def _local(self) -> bool:
        return is_embedded(self._tools.client)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, dims={self.dims})"


def tools_of(
    client: object,
    kind: type[QdrantClient] | type[AsyncQdrantClient],
    name: str,
    embedder: Embedder,
    retries: int,
) -> Tools:
    """What a collection's steps are done with. Raises InputError for another client or name."""
    if not isinstance(client, kind):
        raise InputError(f"client is {type(client).__name__}: expected {kind.__name__}")
    if not isinstance(name, str) or not name:
        raise InputError(f"name is {name!r}: expected the name of a collection")
    check_number("retries", retries, low=0)
    return Tools(client, name, embedder, retries, _turn_of(client))


def _turn_of(client: QdrantClient | AsyncQdrantClient) -> AbstractContextManager[Any]:
    """The lock of a local engine, which mixes up what threads do at once; all objects share it."""
    if not is_embedded(client):
        return nullcontext()
    turn: AbstractContextManager[Any] = vars(client).setdefault("_taskvec_turn", threading.Lock())
    return turn


def layout_of(settings: Settings, quantization: Quantization | None) -> dict[str, Any]:
    """The arguments that make a collection."""
    return {
        "vectors_config": dense_vectors(settings.dims, quantization),
        "sparse_vectors_config": sparse_vectors(wanted=settings.sparse is not None),
    }


def indexes_of(tools: Tools, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The payload indexes to make: none in local mode, which warns that it has none."""
    indexes = payload_indexes(given)
    return {} if is_embedded(tools.client) else indexes


def length_of(documents: object) -> int | None:
    """How many there are, where that can be told."""
    return len(documents) if isinstance(documents, Sized) else None


def checked_ids(ids: Any) -> list[str]:
    """Ids of documents, each once. Raises InputError for what are none."""
    check_several(ids, "ids")
    listed = list(dict.fromkeys(ids))
    for i, id_ in enumerate(listed):
        check_id(f"ids[{i}]", id_)
    return listed
