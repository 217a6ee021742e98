"""An encoder on a SageMaker endpoint, with the interface of one in this process.

SageMaker hands on nothing but `POST /invocations`, so the body names the server's route. Signing,
credentials and connections are boto3's.
"""

import asyncio
import importlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self
from urllib.parse import parse_qsl

from taskvec.core.errors import BusyError, InputError, MissingExtraError, TaskvecError
from taskvec.core.inputs import check_seconds
from taskvec.core.retrying import LATE, RETRIED, Retries, code_of, detail_of, refusal
from taskvec.core.served import ServedEncoder, parsed

SCHEME = "sagemaker://"
NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
OPTIONS = frozenset({"region", "model", "inference_component"})
JSON = "application/json"
CONNECT_S = 10.0
# Awaited calls wait for one of these, and hold up no event loop.
THREADS = 16
# Kept open for all callers; urllib3 warns of each beyond them that it does not keep.
CONNECTIONS = 64
# About 16,000 tokens: SageMaker ends what takes a container longer than 60 s.
CHARACTERS = 1 << 16
# What SageMaker itself answers where asking again may help.
BUSY = frozenset({
    "InternalDependencyException", "InternalFailure", "ModelNotReadyException",
    "ServiceUnavailable", "Throttling", "ThrottlingException", "TooManyRequestsException",
})  # fmt: skip
# Statuses that botocore asks again after, where it does: its older mode after 429, too.
BELOW = frozenset({400, 500, 502, 503, 504})
BELOW_LEGACY = BELOW | {429}
OF_MODEL = "ModelError"  # the container's own reply, with its status and body inside
LONGEST = 500  # characters of a message that may be anybody's


class _AgainError(Exception):
    """An attempt that may be repeated; failure: what stands for it if it is the last."""

    def __init__(self, failure: TaskvecError) -> None:
        super().__init__(failure)
        self.failure = failure


class SageMakerEncoder(ServedEncoder):
    """An `Embedder` on a SageMaker endpoint that runs taskvec's image. Thread-safe.

    Args:
        endpoint_name: of the endpoint.
        region: such as "eu-west-1"; by default that of boto3's own settings.
        client: a boto3 client of "sagemaker-runtime", in place of one made here; `close` leaves
            it open. What it retries by itself is not retried again.
        model: one of the server's models; None is its first.
        inference_component: the endpoint's component that runs taskvec, if it has several.
        timeout_s: between two bytes of a reply; SageMaker gives a container 60 s.
        retries: how often a busy or unreachable endpoint is asked again, with growing pauses.
        batch_size: texts per request; longer lists are split, and so are long texts' lists.

    Errors are those of an encoder in this process: InputError for what is refused, BusyError where
    the endpoint stays busy, TaskvecError where it cannot be reached, or fails.

    Example:
        encoder = SageMakerEncoder("taskvec", region="eu-west-1")
        encoder.encode("how to parse JSON", task="retrieval.query", dim=128)
    """

    def __init__(
        self,
        endpoint_name: str,
        *,
        region: str | None = None,
        client: Any = None,
        model: str | None = None,
        inference_component: str | None = None,
        timeout_s: float = 70.0,
        retries: int = 4,
        batch_size: int = 64,
    ) -> None:
        if not isinstance(endpoint_name, str) or not NAME.fullmatch(endpoint_name):
            raise InputError(
                f"endpoint_name is {endpoint_name!r}: expected up to 63 letters, digits and hyphens"
            )
        if client is not None and region is not None:
            raise InputError("a client has a region of its own: give client or region")
        check_seconds("timeout_s", timeout_s)
        super().__init__(
            SCHEME + endpoint_name,
            model=model,
            retries=retries,
            batch_size=batch_size,
            characters=CHARACTERS,
        )
        self._target = {"EndpointName": endpoint_name}
        if inference_component is not None:
            self._target["InferenceComponentName"] = inference_component
        self._botocore = _boto("botocore.exceptions")
        self._region, self._timeout_s = region, timeout_s
        self._owned = client is None
        self._client = client
        self._closed = False
        self._open()
        configured = self._client.meta.config.retries or {}
        legacy = configured.get("mode", "legacy") == "legacy"
        self._below: frozenset[int] = BELOW_LEGACY if legacy else BELOW
        if configured.get("total_max_attempts") == 1:
            self._below = frozenset()

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The encoder of "sagemaker://ENDPOINT?region=…&model=…&inference_component=…".

        All options may be left out. Raises InputError for another one, or one that is empty.
        """
        name, _, query = url.removeprefix(SCHEME).partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        options = dict(pairs)
        if unknown := sorted(set(options) - OPTIONS):
            raise InputError(f"{SCHEME}{name} has the options {unknown}: use {sorted(OPTIONS)}")
        if len(options) < len(pairs) or not all(options.values()):
            raise InputError(f"{SCHEME}{name}: give each option once, and a value with it")
        return cls(name, **options)  # type: ignore[arg-type]  # those checked

    def close(self) -> None:
        """Close the connections, and end the threads of awaited calls once those are done."""
        self._closed = True
        self._threads.shutdown(wait=False)
        if self._owned:
            self._client.close()

    async def aclose(self) -> None:
        """`close`, for those who await: no connection belongs to an event loop."""
        self.close()

    def _open(self) -> None:
        """Threads, and a client unless one is given, of this process."""
        self._process = os.getpid()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="taskvec-sagemaker")
        if self._owned:
            self._client = self._connect(self._region, self._timeout_s)

    def _connect(self, region: str | None, timeout_s: float) -> Any:
        config = _boto("botocore.config").Config(
            connect_timeout=min(timeout_s, CONNECT_S),
            read_timeout=timeout_s,
            max_pool_connections=CONNECTIONS,
            retries={"total_max_attempts": 1, "mode": "standard"},  # the retries are ours
        )
        session = _boto("boto3").Session()
        try:
            return session.client("sagemaker-runtime", region_name=region, config=config)
        except self._botocore.NoRegionError:
            raise InputError(
                f"{self._name}: no region: give region=, or set AWS_REGION or a profile's"
            ) from None
        except (self._botocore.BotoCoreError, ValueError) as error:
            raise InputError(f"{self._name}: {error}") from error

    def _send(
        self,
        path: str,
        *,
        payload: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        body = _body(path, payload or query)
        retries = Retries(self._retries)
        while True:
            try:
                return parsed(self._name, self._invoke(body))
            except _AgainError as error:
                retries.wait_after(error.failure)

    async def _asend(
        self,
        path: str,
        *,
        payload: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        body = _body(path, payload or query)
        retries = Retries(self._retries)
        loop = asyncio.get_running_loop()
        while True:
            self._check_open()
            try:
                content = await loop.run_in_executor(self._threads, self._invoke, body)
                return parsed(self._name, content)
            except _AgainError as error:
                await retries.await_after(error.failure)

    def _invoke(self, body: bytes) -> bytes:
        """The reply's body. Raises _AgainError where another attempt may help."""
        self._check_open()
        try:
            reply = self._client.invoke_endpoint(
                **self._target, Body=body, ContentType=JSON, Accept=JSON
            )
        except self._botocore.ClientError as error:
            raise self._refused(error.response) from None  # its own message may hold a token
        except self._botocore.BotoCoreError as error:
            raise self._unsent(error) from error
        try:
            content: bytes = reply["Body"].read()
        except self._botocore.BotoCoreError as error:  # botocore does not ask again by now
            raise _AgainError(self._unreached(error)) from error
        return content

    def _refused(self, response: dict[str, Any]) -> Exception:
        """What stands for a reply of SageMaker's with an error in it."""
        code = response["Error"].get("Code", "")
        message = _shown(response["Error"].get("Message", ""))
        if code == OF_MODEL:
            # 0 stands for a container that did not reply in SageMaker's own time.
            status = int(response.get("OriginalStatusCode") or LATE)
            original = response.get("OriginalMessage", "")
            detail = detail_of(original) or _shown(original) or message
            failure = refusal(self._name, status, detail, code_of(original))
            return _AgainError(failure) if status in RETRIED else failure
        status = response["ResponseMetadata"]["HTTPStatusCode"]
        if code in BUSY or status in RETRIED:
            busy = BusyError(f"{self._name} is busy ({code}): {message}")
            return busy if status in self._below else _AgainError(busy)
        return refusal(self._name, status, f"{code}: {message}")

    def _unsent(self, error: Exception) -> Exception:
        """What stands for a request without a reply."""
        kinds = self._botocore
        if not isinstance(error, kinds.HTTPClientError | kinds.ConnectionError):
            return TaskvecError(f"{self._name} cannot be asked: {error}")
        failure = self._unreached(error)
        return failure if self._below else _AgainError(failure)

    def _unreached(self, error: Exception) -> TaskvecError:
        return TaskvecError(f"{self._name} cannot be reached: {type(error).__name__}: {error}")

    def _check_open(self) -> None:
        if self._closed:
            raise BusyError("the encoder is closed: make it again")
        if self._process != os.getpid():  # threads do not survive a fork, nor may sockets be shared
            self._open()


def _body(path: str, content: dict[str, Any] | None) -> bytes:
    """A request of a route as `/invocations` takes it. No task is told of: the server may have one.

    content: of its payload or query.
    """
    fields = {"route": path} if content is None else {"route": path, "task": None, **content}
    return json.dumps(fields, ensure_ascii=False).encode()


def _shown(message: str) -> str:
    """A message's first line: after a false signature, the next ones hold the session's token."""
    return message.partition("\n")[0].strip()[:LONGEST]


def _boto(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError("SageMakerEncoder", "sagemaker") from error
