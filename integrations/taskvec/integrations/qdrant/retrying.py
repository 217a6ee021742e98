"""When Qdrant is asked again, and what its failures become."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from typing import Any

import grpc
import httpx
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from taskvec.core.errors import StoreError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 20.0
# What a server asks for is granted up to here.
MOST_ASKED_S = 300.0
GRPC_RETRIED = frozenset({
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
})  # fmt: skip
DETAIL_CHARACTERS = 200

_growing = wait_exponential(FIRST_PAUSE_S, max=LONGEST_PAUSE_S) + wait_random(0, FIRST_PAUSE_S)


def asking(retries: int) -> Retrying:
    """What calls a function, and again up to `retries` times while its failures may pass.

    Those are: 429, 5xx, timeouts and connections that fail. Pauses double, with jitter, and are
    longer by what the server asks for.
    """
    return Retrying(**_options(retries))


def aasking(retries: int) -> AsyncRetrying:
    """`asking` for coroutine functions."""
    return AsyncRetrying(**_options(retries))


@contextmanager
def sentences(collection: str) -> Iterator[None]:
    """What Qdrant's client raises for a server's failures becomes StoreError."""
    try:
        yield
    except (ResponseHandlingException, JSONDecodeError) as error:
        cause = getattr(error, "source", error)
        reason = f"{type(cause).__name__}: {cause}"
        raise StoreError(
            f"collection {collection!r}: no usable answer from Qdrant: {reason}"
        ) from error
    except UnexpectedResponse as error:
        raise StoreError(f"collection {collection!r}: Qdrant refused: {_reason(error)}") from error
    except QdrantException as error:
        raise StoreError(f"collection {collection!r}: Qdrant is busy: {error}") from error
    except ValueError as error:  # the local engine's refusals
        raise StoreError(f"collection {collection!r}: Qdrant refused: {error}") from error
    except grpc.RpcError as error:
        raise StoreError(f"collection {collection!r}: Qdrant refused: {_code(error)}") from error


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later. All of ours may be sent twice."""
    if isinstance(error, UnexpectedResponse):
        status = error.status_code or 0
        return status == httpx.codes.TOO_MANY_REQUESTS or status >= 500
    if isinstance(error, ResponseHandlingException):
        return isinstance(error.source, httpx.TransportError | OSError)
    if isinstance(error, grpc.RpcError):
        return _code(error) in GRPC_RETRIED
    # Its base stands for a 429 whose Retry-After is no number.
    return isinstance(error, QdrantException)


def _options(retries: int) -> dict[str, Any]:
    retry: Callable[[RetryCallState], bool] = retry_if_exception(may_pass)
    return {
        "stop": stop_after_attempt(retries + 1),
        "wait": _pause_s,
        "retry": retry,
        "reraise": True,
    }


def _pause_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked_s = error.retry_after_s if isinstance(error, ResourceExhaustedResponse) else 0
    # Upon what is asked for, or all clients would come back at once.
    return min(asked_s, MOST_ASKED_S) + _growing(state)


def _code(error: grpc.RpcError) -> Any:
    code = getattr(error, "code", None)
    return code() if callable(code) else None


def _reason(error: UnexpectedResponse) -> str:
    content = (error.content or b"")[:DETAIL_CHARACTERS].decode("utf-8", "replace")
    return f"{error.status_code} {error.reason_phrase} {content}".strip()
