"""Makes collections, and opens those that are there."""

from typing import Any

from taskvec.core.errors import SchemaError, StoreError
from taskvec.integrations.qdrant.settings import Settings
from taskvec.integrations.qdrant.steps import Ask, Steps


def creating(
    name: str, wanted: Settings, config: dict[str, Any], indexes: dict[str, Any]
) -> Steps[Settings]:
    """Make a collection where there is none, and the payload indexes that it lacks.

    Raises FingerprintError for one of other settings, SchemaError for one that is not ours.
    """
    if not (yield Ask("collection_exists")):
        try:
            yield Ask("create_collection", {**config, "metadata": wanted.metadata()})
        except (StoreError, ValueError):
            # Someone else may have made it, or the server did and its answer was lost.
            if not (yield Ask("collection_exists")):
                raise
    kept, indexed = yield from _reading(name)
    kept.check_same(name, wanted)
    for field, schema in indexes.items():
        if field not in indexed:
            arguments = {"field_name": field, "field_schema": schema, "wait": True}
            yield Ask("create_payload_index", arguments)
    return kept


def opening(name: str) -> Steps[Settings]:
    """The settings of a collection. Raises StoreError where there is none."""
    try:
        kept, _ = yield from _reading(name)
    except SchemaError:
        raise
    except (StoreError, ValueError) as error:
        if (yield Ask("collection_exists")):
            raise
        raise StoreError(f"collection {name!r} does not exist: make it with create") from error
    return kept


def _reading(name: str) -> Steps[tuple[Settings, set[str]]]:
    info = yield Ask("get_collection")
    return Settings.read(name, info.config.metadata), set(info.payload_schema)
