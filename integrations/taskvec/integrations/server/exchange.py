"""One request's messages in and its reply's out, each within limits."""

import asyncio

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
        self._read += len(message.get("body", b""))
        if self._read > limits.body_bytes:
            raise HTTPException(413, self.too_large)
        self.gone_early = message["type"] == "http.disconnect"
        if not message.get("more_body", False):
            self._whole.set()
        return message

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

    async def gone(self) -> None:
        """Return once the client has hung up; before its body is whole, `receive` tells."""
        await self._whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send(self, message: Message) -> None:
        """Send a part of the reply. Raises TimeoutError where its reader stands still."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self._name)]
            message = {**message, "headers": headers + [CLOSE] * self._service.draining}
        async with asyncio.timeout(self._service.limits.pause_s):
            await self._send(message)
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        self.complete = self.complete or last

    async def answer(self, response: Response) -> None:
        """Send a whole reply."""
        await response(self._scope, self._receive, self.send)
