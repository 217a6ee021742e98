"""Makes collections, and opens those that are there.

What a collection was made with stands in its metadata. Qdrant keeps those from 1.16 on, client and
server alike; before, they are the payload of a point without vectors, which no search finds.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid5

from qdrant_client import models

from taskvec.core.errors import SchemaError, StoreError
from taskvec.integrations.qdrant.layout import NAMESPACE, QUANTIZATIONS, quantization_of
from taskvec.integrations.qdrant.settings import META_KEY, Settings
from taskvec.integrations.qdrant.steps import Ask, Steps

SETTINGS_POINT = str(uuid5(NAMESPACE, "settings"))
CLIENT_HAS_METADATA = "metadata" in models.CollectionConfig.model_fields


def creating(
    name: str,
    wanted: Settings,
    config: Mapping[str, Any],
    indexes: Mapping[str, Any],
    *,
    any_context: bool,
) -> Steps[Settings]:
    """Make a collection where there is none, and the payload indexes that it lacks.

    any_context: whether one that is there may have another context.
    Raises FingerprintError for one of other settings, SchemaError for one that is not ours, or is
    quantised otherwise.
    """
    made = not (yield Ask("collection_exists"))
    if made:
        made = yield from _making(wanted, config)
    info = yield Ask("get_collection")
    if made and _metadata(info) is None:
        point = models.PointStruct(id=SETTINGS_POINT, vector={}, payload=wanted.metadata())
        yield Ask("upsert", {"points": [point], "wait": True})
    kept = yield from _reading(name, info)
    kept.check_same(name, replace(wanted, context=kept.context) if any_context else wanted)
    check_quantization(name, kept.dims[0], config["vectors_config"], info.config.params.vectors)
    for field, schema in indexes.items():
        if field not in info.payload_schema:
            arguments = {"field_name": field, "field_schema": schema, "wait": True}
            yield Ask("create_payload_index", arguments)
    return kept


def opening(name: str) -> Steps[Settings]:
    """The settings of a collection. Raises StoreError where there is none."""
    try:
        info = yield Ask("get_collection")
    except StoreError as error:
        if (yield Ask("collection_exists")):
            raise
        raise StoreError(f"collection {name!r} does not exist: make it with create") from error
    return (yield from _reading(name, info))


def _making(wanted: Settings, config: Mapping[str, Any]) -> Steps[bool]:
    """Make a collection; gives whether it was this call that did."""
    metadata = {"metadata": wanted.metadata()} if CLIENT_HAS_METADATA else {}
    try:
        yield Ask("create_collection", {**config, **metadata})
    except StoreError:
        # Someone else may have made it, or the server did and its answer was lost.
        if not (yield Ask("collection_exists")):
            raise
        return False
    return True


def _reading(name: str, info: models.CollectionInfo) -> Steps[Settings]:
    kept = _metadata(info)
    if kept is None:
        records = yield Ask("retrieve", {"ids": [SETTINGS_POINT], "with_payload": True})
        kept = next((record.payload.get(META_KEY) for record in records), None)
    settings = Settings.read(kept)
    if settings is None:
        raise SchemaError(
            f"collection {name!r} was not made by TaskvecCollection: give another name, or delete "
            "it if nothing is in it"
        )
    return settings


def check_quantization(name: str, dim: int, wanted: object, found: object) -> None:
    """Raise SchemaError where the vectors of a dim are quantised otherwise than is asked for."""
    asked, there = (quantization_of(vectors, dim) for vectors in (wanted, found))
    # What create has no option for is the user's own, by update_collection.
    if asked != there and (there is None or there in QUANTIZATIONS):
        raise SchemaError(
            f"collection {name!r} has quantization {there!r}, not {asked!r}: give "
            f"quantization={there!r}, open it with open, or change it with client.update_collection"
        )


def _metadata(info: models.CollectionInfo) -> object:
    return (getattr(info.config, "metadata", None) or {}).get(META_KEY)
