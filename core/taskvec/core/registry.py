"""One encoder per process: whoever asks for the same model and options shares it."""

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from taskvec.core.embedder import Array, Embedder, Lane, Overflow, Span, TaskArgument
from taskvec.core.errors import InputError
from taskvec.core.remote import API_KEY, RemoteEncoder
from taskvec.core.sagemaker import SCHEME, SageMakerEncoder
from taskvec.core.source import STARTER


class _Options(NamedTuple):
    """Options of `Encoder.load`, its defaults by default."""

    device: str = "auto"
    dtype: str = "auto"
    max_tokens: int | None = None
    revision: str | None = None
    token_budget: int | None = None
    queue_tokens: int | None = None


class LazyEmbedder:
    """An embedder that is loaded at its first use, once, whichever thread comes first.

    Pickled, it names its model and options; unpickled, it is the other process's own.
    """

    def __init__(self, source: str | Path, options: _Options, api_key: str | None = None) -> None:
        self._source = source
        self._options = options
        self._api_key = api_key
        self._loading = threading.Lock()
        self._loaded: Embedder | None = None

    @property
    def loaded(self) -> Embedder:
        """The embedder itself; loads it if need be. Raises what loading raises."""
        with self._loading:
            embedder = self._loaded
            if embedder is None:
                embedder = self._loaded = _load(self._source, self._options, self._api_key)
        return embedder

    def __deepcopy__(self, memo: object) -> Self:
        """Itself: that is what sharing means."""
        return self

    def __reduce__(self) -> tuple[Callable[..., Embedder], tuple[object, ...]]:
        return _shared, (self._source, self._options)

    async def aloaded(self) -> Embedder:
        """`loaded`, without holding up the event loop while the model loads."""
        return (
            await asyncio.to_thread(lambda: self.loaded) if self._loaded is None else self._loaded
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """See Embedder."""
        return self.loaded.tasks

    @property
    def dims(self) -> tuple[int, ...]:
        """See Embedder."""
        return self.loaded.dims

    @property
    def dim(self) -> int:
        """See Embedder."""
        return self.loaded.dim

    @property
    def max_tokens(self) -> int:
        """See Embedder."""
        return self.loaded.max_tokens

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
        """See Embedder."""
        return self.loaded.encode(
            texts, task=task, dim=dim, lane=lane, overflow=overflow, show_progress=show_progress
        )

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
        """See Embedder."""
        embedder = await self.aloaded()
        return await embedder.aencode(
            texts, task=task, dim=dim, lane=lane, overflow=overflow, show_progress=show_progress
        )

    def encode_chunks(
        self,
        document: str,
        spans: Sequence[Span],
        *,
        task: str | None = "retrieval.passage",
        dim: int | None = None,
    ) -> Array:
        """See Embedder."""
        return self.loaded.encode_chunks(document, spans, task=task, dim=dim)

    async def aencode_chunks(
        self,
        document: str,
        spans: Sequence[Span],
        *,
        task: str | None = "retrieval.passage",
        dim: int | None = None,
    ) -> Array:
        """See Embedder."""
        embedder = await self.aloaded()
        return await embedder.aencode_chunks(document, spans, task=task, dim=dim)

    def fingerprint(self, task: str | None = None, dim: int | None = None) -> str:
        """See Embedder."""
        return self.loaded.fingerprint(task, dim)


# By the key for a server, too: one that is put right is another encoder's.
_SHARED: dict[tuple[str, _Options, str | None], LazyEmbedder] = {}
_CHANGING = threading.Lock()


def shared_encoder(
    source: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    max_tokens: int | None = None,
    revision: str | None = None,
    token_budget: int | None = None,
    queue_tokens: int | None = None,
) -> Embedder:
    """The process's encoder for a model and options: the same object for every caller.

    Returns at once; the model is loaded at its first use, by whichever thread comes first, and a
    failed load is tried again at the next. Options are those of `Encoder.load`, which says what
    they raise. "http://…" or "https://…" gives a `RemoteEncoder` with the key that TASKVEC_API_KEY
    has at this moment, "sagemaker://ENDPOINT" a `SageMakerEncoder`; both take no options.
    """
    options = _Options(device, dtype, max_tokens, revision, token_budget, queue_tokens)
    return _shared(source, options)


def embedder_or_shared(
    embedder: Embedder | None, source: str | Path, *, device: str = "auto", dtype: str = "auto"
) -> Embedder:
    """The given embedder, or else the process's own of a model."""
    return shared_encoder(source, device=device, dtype=dtype) if embedder is None else embedder


def is_url(source: str | Path) -> bool:
    """Whether a source names a server rather than weights."""
    return isinstance(source, str) and source.startswith(("http://", "https://", SCHEME))


def _shared(source: str | Path, options: _Options) -> LazyEmbedder:
    # A folder is known by where it is, whatever folder the process works in later.
    if source != STARTER and os.path.isdir(str(source)):  # noqa: PTH112 - never raises
        source = Path(source).resolve()
    api_key = os.environ.get(API_KEY) if is_url(source) else None
    with _CHANGING:
        return _SHARED.setdefault(
            (str(source), options, api_key), LazyEmbedder(source, options, api_key)
        )


def _load(source: str | Path, options: _Options, api_key: str | None) -> Embedder:
    if not is_url(source):
        # Loaded with the first model: it brings torch, which a server's user may not need.
        from taskvec.core.encoder import Encoder  # noqa: PLC0415

        return Encoder.load(source, **options._asdict())
    if options != _Options():
        raise InputError("device, dtype and other options are the server's own: give none")
    url = str(source)
    if url.startswith(SCHEME):
        return SageMakerEncoder.from_url(url)
    return RemoteEncoder(url, api_key=api_key)


def _forget() -> None:
    """In a forked child: encoders do not survive a fork, so the child loads its own."""
    global _CHANGING  # noqa: PLW0603 - the parent may have held it while forking
    _CHANGING = threading.Lock()
    _SHARED.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
