"""One request's messages in and its reply's out, each within limits."""

import asyncio
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from taskvec.integrations.server.problems import GONE
from taskvec.integrations.server.service import Service

CLOSE = (b"connection", b"close")
LONGEST_NUMBER = 18  # digits; Python refuses to read very many


class Exchange:
    """Wraps an ASGI server's `receive` and `send` for one request.

    name: sent back as `x-request-id`. status: of the reply; 499 until there is one.
    started, complete: how far the reply is. gone_early: whether the client hung up before its
    body was whole.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, service: Service, name: str
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._service = service
        self._name = name.encode()
        self._read = 0
        self._whole = asyncio.Event()
        self._closing = False
        self.status = GONE
        self.started = False
        self.complete = False
        self.gone_early = False

    def header(self, name: bytes) -> bytes:
        """A header of the request; b"" for one that it does not have."""
        return next((value for key, value in self._scope["headers"] if key == name), b"")

    async def receive(self) -> Message:
        """The next part of the body.

        Raises HTTPException 413 for a body beyond the limit, 408 where no more of it comes.
        """
        limits = self._service.limits
        try:
            async with asyncio.timeout(limits.pause_s):
                message = await self._receive()
        except TimeoutError:
            reason = f"no more of the body came within {limits.pause_s:g} s: send it again"
            raise HTTPException(408, reason, headers={"Connection": "close"}) from None
        self._hold(len(message.get("body", b"")))
        self.gone_early = message["type"] == "http.disconnect"
        if not message.get("more_body", False):
            self._whole.set()
        return message

    def _hold(self, size: int) -> None:
        """Count a part of the body that came."""
        service = self._service
        self._read += size
        service.held_bytes += size
        if self._read > service.limits.body_bytes:
            raise HTTPException(413, self.too_large)
        if not service.has_room(0):
            self.let_go()
            headers = {"Retry-After": str(service.retry_after_s())}
            raise HTTPException(429, self.no_room, headers=headers)

    def let_go(self) -> None:
        """The request has ended, or is refused: nobody holds its body any more."""
        self._service.held_bytes -= self._read
        self._read = 0

    @property
    def declared_bytes(self) -> int:
        """How long the body is going to be, where the client says so."""
        declared = self.header(b"content-length")[:LONGEST_NUMBER]
        return int(declared) if declared.isdigit() else 0

    @property
    def too_large(self) -> str:
        """Why a body beyond the limit is refused."""
        limit = self._service.limits.body_bytes
        return f"the body has more than {limit} bytes: send several requests"

    @property
    def no_room(self) -> str:
        """Why a body is refused that would fit at another time."""
        limit = self._service.limits.bodies_bytes
        return f"bodies of {limit} bytes or nearly so are in progress: try again later"

    async def gone(self) -> None:
        """Return once the client has hung up; before its body is whole, `receive` tells."""
        await self._whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send(self, message: Message) -> None:
        """Send a part of the reply. Raises TimeoutError where its reader stands still."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            self._closing = self._may_go_on
            headers = [*message.get("headers", []), (b"x-request-id", self._name)]
            close = [CLOSE] * (self._service.draining or self._closing)
            message = {**message, "headers": headers + close}
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        async with asyncio.timeout(self._service.limits.pause_s):
            await self._send({**message, "more_body": True} if last and self._closing else message)
        self.complete = self.complete or last
        if last and self._closing:
            await self._leave()

    @property
    def _may_go_on(self) -> bool:
        """Whether the rest of a body may be longer than what a request may have."""
        beyond = self.declared_bytes > self._service.limits.body_bytes
        return not self._whole.is_set() and (beyond or bool(self.header(b"transfer-encoding")))

    async def _leave(self) -> None:
        """Close a connection once its client had the time to read the reply.

        Closed at once, while more of the body comes, it would be reset, and the reply lost.
        """
        limits = self._service.limits
        left = limits.body_bytes
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.pause_s):
                while left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        await self._send({"type": "http.response.body"})

    async def answer(self, response: Response) -> None:
        """Send a whole reply."""
        await response(self._scope, self._receive, self.send)
