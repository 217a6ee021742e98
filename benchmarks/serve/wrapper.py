"""sentence-transformers behind FastAPI, as one would write it: the peer that installs anywhere.

Every request is encoded as it came, one at a time, in a thread beside the event loop: threads that
encode side by side would only take each other's CPUs. JSON is orjson's, in and out.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import torch
import uvicorn
from fastapi import FastAPI, Request
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from starlette.responses import Response


def load(folder: Path) -> SentenceTransformer:
    """Transformers' own JinaEmbeddingsV3Model in float32, mean pooling, unit norm."""
    transformer = Transformer(
        str(folder), model_kwargs={"dtype": torch.float32, "add_pooling_layer": False}
    )
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")


def create_app(model: SentenceTransformer) -> FastAPI:
    """`POST /v1/embeddings` of lists of texts, and `GET /healthz`."""
    app, thread = FastAPI(), ThreadPoolExecutor(1)

    def encode(texts: list[str]) -> Any:
        return model.encode(texts, batch_size=32, show_progress_bar=False)

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        body = orjson.loads(await request.body())
        loop = asyncio.get_running_loop()
        vectors = await loop.run_in_executor(thread, encode, body["input"])
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ]
        reply = {"object": "list", "model": body["model"], "data": data}
        content = orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(content, media_type="application/json")

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


if __name__ == "__main__":
    served = create_app(load(Path(sys.argv[1])))
    uvicorn.run(served, port=int(sys.argv[2]), access_log=False, log_level="warning")
