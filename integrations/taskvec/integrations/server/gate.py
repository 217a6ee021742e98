"""What stands before the routes: keys, room, deadlines, and clients that hang up."""

import asyncio
import time
import uuid
from collections.abc import Collection

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from taskvec.integrations.server.exchange import Exchange
from taskvec.integrations.server.facts import Facts
from taskvec.integrations.server.hosts import is_for
from taskvec.integrations.server.keys import Keys
from taskvec.integrations.server.logs import log_failure, log_request
from taskvec.integrations.server.problems import GONE, UNEXPECTED, problem
from taskvec.integrations.server.service import Service
from taskvec.integrations.server.tracing import describe, request_span
from taskvec.integrations.server.ways import path_of

OPEN = frozenset({"/healthz", "/readyz", "/ping"})
ROUTES = frozenset({
    "/v1/embeddings", "/v1/chunks", "/v1/models", "/v1/fingerprint", "/healthz", "/readyz",
    "/metrics", "/openapi.json", "/", "/playground", "/ping", "/invocations",
})  # fmt: skip
WORK = frozenset({"/v1/embeddings", "/v1/chunks", "/v1/fingerprint", "/invocations"})

OTHER_HOST = "without API keys this server answers to its own machine's names alone"
ALLOW = "let everybody in (--allow-anonymous, allow_anonymous=True)"
# What OpenAI's client takes for an answer to whether it should ask again by itself.
NOT_AGAIN = {"x-should-retry": "false"}
ENDED = "the server ends, and this was not answered in time: send it again, or elsewhere"


class Gate:
    """ASGI middleware: lets requests in, and sees to it that each ends."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: Service,
        keys: Keys,
        hosts: Collection[str] = (),
        pages: Collection[str] = (),
    ) -> None:
        """pages: routes that ask for no key, beside OPEN."""
        self._app = app
        self._hosts = hosts
        self._service = service
        self._keys = keys
        self._open = OPEN.union(pages)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and write its line into the log and the metrics."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        facts = Facts(uuid.uuid4().hex, scope["method"], _route(scope))
        scope.setdefault("state", {})["facts"] = facts
        exchange = Exchange(scope, receive, send, service=self._service, name=facts.id)
        with request_span(scope, facts) as span:
            try:
                await self._let_in(scope, exchange, facts)
            finally:
                describe(span, facts, exchange.status)
                self._report(facts, exchange.status, time.perf_counter() - began)

    async def _let_in(self, scope: Scope, exchange: Exchange, facts: Facts) -> None:
        refusal = self._refusal(exchange, facts)
        if refusal is not None:
            await exchange.answer(refusal)
        elif facts.route in WORK:
            self._service.in_progress += 1
            try:
                await self._serve(scope, exchange, facts)
            finally:
                self._service.in_progress -= 1
        else:
            await self._serve(scope, exchange, facts)

    async def _serve(self, scope: Scope, exchange: Exchange, facts: Facts) -> None:
        try:
            await self._run(scope, exchange, facts)
        finally:
            exchange.let_go()

    def _refusal(self, exchange: Exchange, facts: Facts) -> Response | None:
        """Why a request is not let in, before any of its body is read."""
        service = self._service
        if service.ended:
            return problem(503, ENDED)
        if self._hosts and not is_for(exchange.header(b"host"), self._hosts):
            return problem(421, f"{OTHER_HOST}: use its address, give API keys, or {ALLOW}")
        if self._keys and facts.route not in self._open:
            facts.key = self._keys.find(exchange.header(b"authorization"))
            if facts.key is None:
                message = "no valid API key: send one as `Authorization: Bearer KEY`"
                return problem(401, message, headers={"WWW-Authenticate": "Bearer"})
        if exchange.declared_bytes > service.limits.body_bytes:
            return problem(413, exchange.too_large)
        return self._busy(exchange, facts)

    def _busy(self, exchange: Exchange, facts: Facts) -> Response | None:
        """Why there is no room for a request at the moment."""
        service = self._service
        if facts.route in WORK and service.in_progress >= service.limits.requests:
            message = f"{service.in_progress} requests are in progress: try again later"
        elif not service.has_room(exchange.declared_bytes):
            message = exchange.no_room
        else:
            return None
        return problem(429, message, headers={"Retry-After": str(service.retry_after_s())})

    async def _run(self, scope: Scope, exchange: Exchange, facts: Facts) -> None:
        """Run the route until it has answered, its deadline is over, or its client is gone."""
        work = asyncio.ensure_future(self._app(scope, exchange.receive, exchange.send))
        gone = asyncio.ensure_future(exchange.gone())
        self._service.running.add(work)
        try:
            done = await _first(work, gone, timeout_s=self._service.limits.deadline_s)
            if not done and exchange.started:  # its reply is on the way, and has limits of its own
                done = await _first(work, gone)
            if work not in done:
                await _cancelled(work)
        finally:
            self._service.running.discard(work)
            await _cancelled(work, gone)
        await self._finish(exchange, facts, work, hung_up=work not in done and gone in done)

    async def _finish(
        self, exchange: Exchange, facts: Facts, work: "asyncio.Future[None]", *, hung_up: bool
    ) -> None:
        error = None if work.cancelled() else work.exception()
        stalled = isinstance(error, TimeoutError) and exchange.started
        if error is not None and not stalled and not isinstance(error, ClientDisconnect):
            log_failure(facts, error)
            self._service.suspect = True
        if hung_up or exchange.gone_early or exchange.started:
            if exchange.gone_early or not exchange.complete:
                exchange.status = GONE
        elif work.cancelled() and self._service.ended:
            await exchange.answer(problem(503, ENDED))
        elif work.cancelled():
            limit = self._service.limits.deadline_s
            message = f"no answer within {limit:g} s: send less at once, or try again later"
            await exchange.answer(problem(504, message, headers=NOT_AGAIN))
        elif error is not None:
            await exchange.answer(problem(500, UNEXPECTED))

    def _report(self, facts: Facts, status: int, seconds: float) -> None:
        log_request(facts, status=status, seconds=seconds)
        self._service.metrics.observe(facts, status=status, seconds=seconds)


async def _first(
    *tasks: "asyncio.Future[None]", timeout_s: float | None = None
) -> "set[asyncio.Future[None]]":
    done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    return done


async def _cancelled(*tasks: "asyncio.Future[None]") -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _route(scope: Scope) -> str:
    """A path as the limits and metrics know it, wherever the application is mounted.

    A name of a model is none of theirs.
    """
    path = path_of(scope)
    if path.startswith("/v1/models/"):
        return "/v1/models"
    return path if path in ROUTES else "other"
