"""Reads `--store` and opens the store that it names."""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from taskvec.core.errors import InputError
from taskvec.integrations.cli.redaction import redacted
from taskvec.integrations.cli.stores.base import Store, check_collection
from taskvec.integrations.extras import needs_extra


def store_folder(spec: str) -> Path | None:
    """The folder that an embedded store lives in; None for one on a server."""
    if "\0" in spec:
        raise InputError(f"--store {redacted(spec)!r} holds a NUL character")
    kind, _, rest = spec.partition(":")
    embedded = kind in {"qdrant", "postgres"} and not rest.startswith(("http://", "https://", "//"))
    if kind == "postgres" and embedded and "@" in rest:
        raise InputError("--store postgres:… with '@' names a folder: write postgresql://… instead")
    return Path(os.path.realpath(os.path.expanduser(rest))) if embedded and rest else None  # noqa: PTH111


def open_store(spec: str, collection: str, *, create: bool) -> AbstractContextManager[Store]:
    """Open the store that `--store` names, as a context manager.

    create: whether a folder that does not exist may be made; searching makes none.
    Raises InputError for an unknown kind, StoreError where the database cannot be used.
    """
    # SQLAlchemy's URLs name a driver, which libpq does not know.
    spec = re.sub(r"^(postgres(?:ql)?)\+psycopg2?://", r"\1://", spec)
    name, folder = check_collection(collection), store_folder(spec)
    if folder is not None:
        _check_folder(spec, folder)
    if spec.startswith("qdrant:") and spec != "qdrant:":
        return _open_qdrant(spec, name, folder, create=create)
    if spec.startswith(("postgresql://", "postgres://")):
        return _open_postgres(spec, name)
    if spec.startswith("postgres:") and folder is not None:
        return _open_embedded_postgres(spec, name, folder, create=create)
    raise InputError(
        f"--store {redacted(spec)!r} is not one of qdrant:FOLDER, qdrant:http://HOST:6333, "
        "postgresql://… or postgres:FOLDER"
    )


def _check_folder(spec: str, folder: Path) -> None:
    if re.fullmatch(r"qdrant:[\w.-]+:\d+", spec):
        raise InputError(f"--store {spec!r} names a folder: write qdrant:http://… for a server")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--store {redacted(spec)!r} names a file where a folder is wanted")


def _open_qdrant(
    spec: str, collection: str, folder: Path | None, *, create: bool
) -> AbstractContextManager[Store]:
    with needs_extra("a Qdrant store", "qdrant"):
        from taskvec.integrations.cli.stores import qdrant
    if folder is None:
        return qdrant.open_server(spec.removeprefix("qdrant:"), collection)
    return qdrant.open_folder(folder, collection, create=create)


def _open_postgres(dsn: str, collection: str) -> AbstractContextManager[Store]:
    with needs_extra("a Postgres store", "pgvector"):
        from taskvec.integrations.cli.stores import postgres
    return postgres.open_postgres(dsn, collection)


@contextmanager
def _open_embedded_postgres(
    spec: str, collection: str, folder: Path, *, create: bool
) -> Iterator[Store]:
    with needs_extra("an embedded Postgres", "embedded"):
        from taskvec.integrations.embedded import embedded_postgres
    with needs_extra("a Postgres store", "pgvector"):
        from taskvec.integrations.cli.stores import postgres
    if not create:
        postgres.require_embedded(folder)
    with embedded_postgres(folder) as dsn, postgres.open_postgres(dsn, collection, spec) as store:
        yield store
