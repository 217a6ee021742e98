"""The page and its routes: one document that holds its styles and scripts, and asks nobody else."""

import base64
import hashlib
from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import HTMLResponse, RedirectResponse, Response

PATHS = frozenset({"/", "/playground"})
# In the order in which they are run: each knows the names of those before it.
SCRIPTS = ("asking.js", "snippets.js", "showing.js", "page.js")
STYLES = ("page.css",)

router = APIRouter(include_in_schema=False)


@router.get("/", response_model=None)
async def root() -> Response:
    """The way to the page, also where the application is mounted into another one."""
    return RedirectResponse("playground")


@router.get("/playground", response_model=None)
async def playground() -> Response:
    """The page. It needs no key, for it holds nothing; what it asks for does."""
    content, policy = built()
    headers = {
        "Content-Security-Policy": policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Cache-Control": "no-cache",
    }
    return HTMLResponse(content, headers=headers)


@cache
def built() -> tuple[bytes, str]:
    """The page in one piece, and the policy that lets its own styles and scripts run alone.

    Trusted Types are required and none is allowed: no text can become markup or a script.
    """
    styles, scripts = [_read(name) for name in STYLES], [_read(name) for name in SCRIPTS]
    page = _read("page.html")
    for tag, parts in (("style", styles), ("script", scripts)):
        page = page.replace(f"<!-- {tag}s -->", "".join(f"<{tag}>{one}</{tag}>" for one in parts))
    policy = {
        "default-src": "'none'",
        "script-src": _hashes(scripts),
        "style-src": _hashes(styles),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return page.encode(), "; ".join(f"{name} {value}" for name, value in policy.items())


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hashes(parts: list[str]) -> str:
    digests = (hashlib.sha256(one.encode()).digest() for one in parts)
    return " ".join(f"'sha256-{base64.b64encode(one).decode()}'" for one in digests)
