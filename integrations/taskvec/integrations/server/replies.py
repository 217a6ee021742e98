"""Vectors as JSON: four ways to write one, and replies of any size in pieces."""

import asyncio
import base64
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Literal, TypeAlias

import numpy as np
import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from taskvec.core.embedder import Array

Kind: TypeAlias = Literal["float", "base64", "binary", "ubinary"]

PIECE_BYTES = 256 << 10


def written(vector: Array, kind: Kind) -> object:
    """A vector (dim,) as JSON has it.

    "float": numbers, the shortest that give the same float32 back. "base64": little-endian
    float32. "ubinary": its signs, eight to a byte, the first in the highest bit, 1 above zero.
    "binary": these bytes less 128.
    """
    if kind == "float":
        return vector
    if kind == "base64":
        return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode()
    signs = np.packbits(vector > 0)
    return signs if kind == "ubinary" else (signs.astype(np.int16) - 128).astype(np.int8)


def item(vector: Array, kind: Kind, fields: Mapping[str, Any]) -> bytes:
    """One JSON object: some fields, and the vector as `embedding`."""
    content = {**fields, "embedding": written(vector, kind)}
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def separated(items: Iterable[bytes]) -> Iterator[bytes]:
    """Items with commas between them."""
    for number, one in enumerate(items):
        yield b"," + one if number else one


class Streamed(Response):
    """Bytes in parts, made as they are sent, in pieces that wait for their reader.

    parts: the body. extra: headers beside those of the content.
    """

    def __init__(self, parts: Iterable[bytes], media_type: str = "application/json") -> None:
        super().__init__()
        self.media_type = media_type
        self.parts = parts
        self.extra: dict[str, str] = {}

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it, with a length where it is short."""
        pieces = _pieces(self.parts)
        first = next(pieces)
        second = next(pieces, None)
        length = {} if second is not None else {"content-length": str(len(first))}
        self.init_headers({"content-type": str(self.media_type), **length, **self.extra})
        if second is not None:
            del self.headers["content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        piece, following = first, second
        while following is not None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)  # between two pieces others have their turn
            piece, following = following, next(pieces, None)
        await send({"type": "http.response.body", "body": piece})


class Listing(Streamed):
    """`{"object": "list", …, "data": […]}`.

    fields: what stands beside the data. data: the inside of the list, made as it is sent, so that
    the text of a large reply is never in memory as a whole.
    """

    def __init__(self, fields: Mapping[str, Any], data: Iterable[bytes]) -> None:
        head = orjson.dumps({"object": "list", **fields})[:-1] + b',"data":['
        super().__init__(chain([head], data, [b"]}"]))


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """All parts, in pieces of about PIECE_BYTES; one at least."""
    piece = bytearray()
    for part in parts:
        piece += part
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)
