"""The routes that there are, for who asks for another one, or by another method."""

from collections.abc import Iterable, Sequence

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.types import Scope

from taskvec.integrations.server.near import nearest

VERSION = "/v1"
NAMED = "/{model:path}"  # a route that ends in this has all paths below
LONGEST = 100  # characters of a path that are told


class Ways:
    """The methods of each path of some routers, and of the schema."""

    def __init__(self, routers: Iterable[APIRouter]) -> None:
        self._methods: dict[str, set[str]] = {"/openapi.json": {"GET", "HEAD"}}
        for router in routers:
            for route in router.routes:
                if isinstance(route, APIRoute):
                    self._methods.setdefault(route.path, set()).update(route.methods or ())

    def methods(self, path: str) -> Sequence[str]:
        """What a path takes; nothing where there is none."""
        for known, methods in self._methods.items():
            if path == known or (known.endswith(NAMED) and path.startswith(known[: -len(NAMED)])):
                return sorted(methods)
        return ()

    def missing(self, path: str) -> str:
        """Why there is nothing at a path, and what may have been meant."""
        shown, meant = _short(path), self._meant(path)
        if meant is None:
            return f"no route {shown!r}: /openapi.json lists them"
        hint = " (base_url=…/v1 for OpenAI's clients)" if f"{VERSION}{path}" == meant else ""
        return f"no route {shown!r}: did you mean {meant}?{hint}"

    def other(self, path: str, method: str) -> str:
        """Why a path is not served by a method, and which it takes."""
        return f"{_short(path)} takes no {_short(method)}: use {', '.join(self.methods(path))}"

    def _meant(self, path: str) -> str | None:
        known = [one for one in self._methods if not one.endswith(NAMED)]
        for meant in (f"{VERSION}{path}", path.removeprefix(VERSION), path.rstrip("/")):
            if meant in known:
                return meant
        ends = {one.rpartition("/")[2]: one for one in known if one != "/"}
        near = nearest(path.rpartition("/")[2], ends)
        return ends[near] if near else None


def path_of(scope: Scope) -> str:
    """The path of a request, wherever the application is mounted."""
    path: str = scope["path"]
    rest = path.removeprefix(scope.get("root_path", "").rstrip("/"))
    return rest if rest.startswith("/") else path


def _short(given: str) -> str:
    return given if len(given) <= LONGEST else f"{given[:LONGEST]}…"
