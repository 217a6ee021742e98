"""An encoder behind HTTP, with the interface of one in this process."""

import asyncio
import os
import weakref
from typing import TYPE_CHECKING, Any

from taskvec.core.errors import BusyError, InputError, MissingExtraError, TaskvecError
from taskvec.core.inputs import check_seconds
from taskvec.core.retrying import RETRIED, Retries, failure_of
from taskvec.core.served import ServedEncoder, parsed, without_secrets

if TYPE_CHECKING:
    import httpx

API_KEY = "TASKVEC_API_KEY"
NO_KEY = 401
CONNECT_S = 10.0


class RemoteEncoder(ServedEncoder):
    """An `Embedder` on a taskvec server. Every method may be called from any thread or loop.

    Args:
        url: where the server is, such as "http://127.0.0.1:8080", without "/v1".
        model: one of the server's models; None is its first.
        api_key: sent as a bearer token, without white space around it; by default what the
            environment's TASKVEC_API_KEY is now.
        timeout_s: between two bytes of a reply; more than the server's deadline, 300 s unless
            told otherwise, which ends what takes too long. A connection has CONNECT_S.
        retries: how often a busy or unreachable server is asked again, with growing pauses. One
            that had no answer within its deadline (504) is not: it would do the work once more.
        batch_size: texts per request; longer lists are split, and so are long texts' lists.

    Errors are those of an encoder in this process: InputError for what the server refuses,
    BusyError when it stays busy or takes too long, TaskvecError when it cannot be reached or fails.

    Example:
        encoder = RemoteEncoder("http://127.0.0.1:8080")
        encoder.encode("how to parse JSON", task="retrieval.query", dim=128)
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 330.0,
        retries: int = 4,
        batch_size: int = 256,
    ) -> None:
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise InputError("url: expected http://… or https://…")
        check_seconds("timeout_s", timeout_s)
        super().__init__(without_secrets(url), model=model, retries=retries, batch_size=batch_size)
        key = _checked(api_key, "api_key") or _checked(os.environ.get(API_KEY), API_KEY)
        self._options: dict[str, Any] = {
            "base_url": url.rstrip("/"),
            "timeout": _httpx().Timeout(timeout_s, connect=min(timeout_s, CONNECT_S)),
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
        }
        self._client: httpx.Client = _httpx().Client(**self._options)
        # A connection pool belongs to the event loop that opened it.
        self._async: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            weakref.WeakKeyDictionary()
        )

    def close(self) -> None:
        """Close the connections of all calls that are not awaited."""
        self._client.close()

    async def aclose(self) -> None:
        """Close the connections that were opened on the running event loop."""
        client = self._async.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _send(
        self,
        path: str,
        *,
        payload: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        retries = Retries(self._retries)
        method = "GET" if payload is None else "POST"
        while True:
            if self._client.is_closed:
                raise BusyError("the encoder is closed: make it again")
            try:
                response = self._client.request(method, path, json=payload, params=query)
            except _httpx().LocalProtocolError:
                raise self._unsendable() from None
            except _httpx().TransportError as error:
                retries.wait_after(failure_of(self._name, error))
                continue
            if response.status_code not in RETRIED:
                return self._parsed(response)
            retries.wait_after(failure_of(self._name, response), response)

    async def _asend(
        self,
        path: str,
        *,
        payload: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        if loop not in self._async:
            self._async[loop] = _httpx().AsyncClient(**self._options)
        retries = Retries(self._retries)
        method = "GET" if payload is None else "POST"
        while True:
            try:
                response = await self._async[loop].request(method, path, json=payload, params=query)
            except _httpx().LocalProtocolError:
                raise self._unsendable() from None
            except _httpx().TransportError as error:
                await retries.await_after(failure_of(self._name, error))
                continue
            if response.status_code not in RETRIED:
                return self._parsed(response)
            await retries.await_after(failure_of(self._name, response), response)

    def _unsendable(self) -> TaskvecError:
        """What stands for a request that breaks HTTP's rules; httpx's words may hold the key."""
        return TaskvecError(f"{self._name} cannot be asked: the request breaks HTTP's rules")

    def _parsed(self, response: "httpx.Response") -> dict[str, Any]:
        if response.status_code == NO_KEY:
            fault = "does not know the API key" if self._options["headers"] else "wants an API key"
            cure = f"give RemoteEncoder(url, api_key=…), or set {API_KEY}"
            raise TaskvecError(f"{self._name} {fault} ({NO_KEY}): {cure}")
        if response.is_error:
            raise failure_of(self._name, response)
        return parsed(self._name, response.content)


def _checked(key: str | None, name: str) -> str:
    """A key as a header can hold it. Raises InputError for another, without showing it."""
    if key is not None and not isinstance(key, str):
        raise InputError(f"{name} is {type(key).__name__}: expected a text")
    stripped = (key or "").strip()
    if not all("!" <= letter <= "~" for letter in stripped):
        raise InputError(f"{name} is none: expected one key, of ASCII characters without spaces")
    return stripped


def _httpx() -> Any:
    try:
        import httpx  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise MissingExtraError("RemoteEncoder", "remote") from error
    return httpx
