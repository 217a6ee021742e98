"""What answers while a model is being loaded."""

from fastapi import FastAPI
from starlette.datastructures import State
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from taskvec.integrations.server.problems import problem


class Coming:
    """An application that says 503 until another one takes its place.

    It stands for that one's service, too, in what `HttpServer` tells it.
    """

    def __init__(self) -> None:
        self._app: FastAPI | None = None
        self._draining = False
        self.state = State({"service": self})

    def become(self, app: FastAPI) -> None:
        """Let an application answer from now on."""
        app.state.service.draining = self._draining
        self._app = app

    @property
    def draining(self) -> bool:
        """Whether the server is about to end."""
        return self._draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self._draining = value
        if self._app is not None:
            self._app.state.service.draining = value

    def cut_off(self) -> None:
        """Let every request that runs be told that the server ends."""
        if self._app is not None:
            self._app.state.service.cut_off()

    def close(self) -> None:
        """End the service's threads."""
        if self._app is not None:
            self._app.state.service.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._app is not None:
            await self._app(scope, receive, send)
        elif scope["path"] == "/ping":
            await Response(status_code=503)(scope, receive, send)
        else:
            again = {"Retry-After": "1"}
            message = "the model is being loaded: try again later"
            await problem(503, message, headers=again)(scope, receive, send)
