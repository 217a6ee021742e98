"""What a call of attach asks for, checked as far as it can be without the server."""

from dataclasses import dataclass

from taskvec.core.errors import InputError
from taskvec.core.remote import API_KEY
from taskvec.integrations.cli.redaction import redacted

MAX_INDEXED_DIM = {"vector": 2_000, "halfvec": 4_000}
INDEXES = ("hnsw", "none")
EXISTING = ("replace", "keep")


def check_model(model: str) -> None:
    """Refuse a URL with a secret: whoever reads the registry reads a column's model."""
    _, mark, rest = model.partition("://")
    if mark and set(rest) & set("@?#"):
        raise InputError(
            f"the model {redacted(model)!r} was given with a user, a password or a query, which "
            f"would be stored in the database: leave them out of the URL, and put the key into "
            f"the environment's {API_KEY}"
        )


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The options of attach. Raises InputError for those that fit no table at all.

    chunks: the chunk table as SQL writes it. The other names are those of the registry.
    """

    embedding: str | None
    sources: tuple[str, ...]
    chunks: str | None
    chunk_characters: int | None
    model: str
    task: str | None
    query_task: str | None
    dim: int
    type: str
    index: str
    existing: str
    fingerprint: str
    query_fingerprint: str

    def __post_init__(self) -> None:
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise InputError(f"sources {[*self.sources]}: name at least one column, and each once")
        if self.embedding is None and self.chunks is None:
            raise InputError("neither a column nor a chunk table is named: give one of them")
        if self.embedding in self.sources:
            raise InputError(f"{self.embedding!r} cannot be a source of its own vector")
        if self.chunk_characters is not None and self.chunk_characters < 1:
            raise InputError(f"chunk_characters {self.chunk_characters}: give at least 1")
        self._check_words()
        if self.index != "none" and self.dim > MAX_INDEXED_DIM[self.type]:
            raise InputError(
                f"an index of {self.type} holds at most {MAX_INDEXED_DIM[self.type]} dims, not "
                f"{self.dim}: take a smaller dim, type 'halfvec' or index 'none'"
            )

    def _check_words(self) -> None:
        for option, value, allowed in (
            ("type", self.type, list(MAX_INDEXED_DIM)),
            ("index", self.index, list(INDEXES)),
            ("existing", self.existing, list(EXISTING)),
        ):
            if value not in allowed:
                raise InputError(f"unknown {option} {value!r}: use one of {allowed}")
