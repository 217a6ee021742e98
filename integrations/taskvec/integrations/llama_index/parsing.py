"""A LlamaIndex node parser whose nodes have late-chunked vectors."""

import asyncio
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Self

from llama_index.core.callbacks import CallbackManager
from llama_index.core.node_parser import NodeParser
from llama_index.core.node_parser.loading import load_parser
from llama_index.core.node_parser.node_utils import default_id_func
from llama_index.core.schema import BaseComponent, BaseNode, Document, MetadataMode
from llama_index.core.utils import get_tqdm_iterable
from pydantic import SerializeAsAny

from taskvec.adapters.llama_index import TaskvecEmbedding
from taskvec.core.errors import InputError
from taskvec.integrations.llama_index.carrying import DefaultTokenizer, has_tokenizer
from taskvec.integrations.llama_index.cutting import Cut, cuts_of

# Documents that are encoded at once, so that short ones share batches.
AT_ONCE = 8


class LateChunkingNodeParser(NodeParser):
    """Cuts documents with a splitter, and gives each node its late-chunked vector.

    Each document is read once, as a whole; a node's `embedding` (`dim` floats of unit length) is
    pooled from the tokens of its span there. A document beyond the model's context is read in
    overlapping windows. Indexes, pipelines and vector stores keep a vector that a node has, and
    ask `embedding` for those of queries.

    Of the metadata, what the mode lets through is read once, before the text, as the document's
    templates put it; all nodes see it as context, and none is pooled from it. What a splitter adds
    to single nodes is not read.

    Nodes are the splitter's, but for `start_char_idx` and `end_char_idx` (their half-open span in
    the document's text), links to blank nodes, which are left out, and ids: a UUID made of the
    document's id, the node's number and its text. Ids are the splitter's where it has an `id_func`.

    Args:
        splitter: any node parser that only cuts; white space it may change.
        embedding: gives the vectors; its passage task, dim and model count.
        embed_model: LlamaIndex's word for `embedding`, in its place.
        metadata_mode: which of a document's metadata are read: EMBED those that are not in
            `excluded_embed_metadata_keys`, NONE none.
        callback_manager: by default the splitter's.

    Whole documents are to come. Several pieces of one document, which a splitter before this one
    cut, are each read alone, and warned of.

    Raises:
        InputError: what is no node parser or no TaskvecEmbedding; when documents come, different
            ones of the same id, or a node that is no part of its document.

    Example:
        embedding = TaskvecEmbedding(dim=128)
        parser = LateChunkingNodeParser(SentenceSplitter(chunk_size=256), embedding)
        index = VectorStoreIndex.from_documents(
            documents, transformations=[parser], embed_model=embedding
        )
    """

    # Every setting is a field, because fields make up the cache key of an IngestionPipeline.
    splitter: SerializeAsAny[NodeParser]
    embedding: SerializeAsAny[TaskvecEmbedding]
    metadata_mode: MetadataMode = MetadataMode.EMBED

    def __init__(
        self,
        splitter: NodeParser,
        embedding: TaskvecEmbedding | None = None,
        *,
        embed_model: TaskvecEmbedding | None = None,
        metadata_mode: MetadataMode = MetadataMode.EMBED,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        if embedding is not None and embed_model is not None:
            raise InputError("embedding and embed_model mean the same: give one")
        embedding = embed_model if embedding is None else embedding
        _check(splitter, embedding)
        fields: dict[str, Any] = {
            "splitter": splitter,
            "embedding": embedding,
            "metadata_mode": metadata_mode,
            "callback_manager": callback_manager or splitter.callback_manager,
            "include_metadata": splitter.include_metadata,
            "include_prev_next_rel": splitter.include_prev_next_rel,
            "id_func": splitter.id_func,
        }
        super().__init__(**fields)

    @classmethod
    def from_defaults(
        cls,
        splitter: NodeParser,
        embedding: TaskvecEmbedding | None = None,
        *,
        embed_model: TaskvecEmbedding | None = None,
        metadata_mode: MetadataMode = MetadataMode.EMBED,
        callback_manager: CallbackManager | None = None,
    ) -> Self:
        """The same as the class itself, by LlamaIndex's usual name."""
        return cls(
            splitter,
            embedding,
            embed_model=embed_model,
            metadata_mode=metadata_mode,
            callback_manager=callback_manager,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """A parser of the settings that `to_dict` told.

        splitter, embedding: in place of those told. Raises InputError for a splitter that
        LlamaIndex cannot make of its settings, such as a LangchainNodeParser.
        """
        told = data | kwargs
        splitter, embedding = told.get("splitter"), told.get("embedding")
        if isinstance(splitter, Mapping):
            splitter = _loaded(splitter)
        if isinstance(embedding, Mapping):
            embedding = TaskvecEmbedding.from_dict(dict(embedding))
        mode = MetadataMode(told.get("metadata_mode", MetadataMode.EMBED))
        return cls(
            splitter,  # type: ignore[arg-type]  # None is refused by name
            embedding,
            metadata_mode=mode,
            callback_manager=told.get("callback_manager"),
        )

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex stores for this class."""
        return "LateChunkingNodeParser"

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """The settings, with all that the splitter and the embedding tell of theirs."""
        own: dict[str, Any] = super().to_dict(**kwargs)
        parts = {
            "splitter": self.splitter.to_dict(**kwargs),
            "embedding": self.embedding.to_dict(**kwargs),
        }
        return own | parts

    def __getstate__(self) -> dict[str, Any]:
        # LlamaIndex drops what it cannot pickle; this says why it cannot be.
        pickle.dumps(self.embedding)
        state = super().__getstate__()
        # Before the splitter, for what comes first is unpickled first.
        return {"tokenizer": DefaultTokenizer()} | state if has_tokenizer(self.splitter) else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        kept = state["__dict__"]
        LateChunkingNodeParser.__init__(
            self,
            kept["splitter"],
            kept["embedding"],
            metadata_mode=kept["metadata_mode"],
            callback_manager=kept.get("callback_manager"),
        )

    def _parse_nodes(
        self, nodes: Sequence[BaseNode], show_progress: bool = False, **_: Any
    ) -> list[BaseNode]:
        cuts = self._cuts(nodes)
        # Contexts tell LlamaIndex's handlers whose call the threads work for.
        contexts = [copy_context() for _ in cuts]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            rows = pool.map(lambda context, cut: context.run(self._vectors, cut), contexts, cuts)
            shown = get_tqdm_iterable(cuts, show_progress, "Late chunking")
            pairs = zip(shown, rows, strict=True)
            return [node for cut, vectors in pairs for node in cut.with_vectors(vectors)]

    async def _aparse_nodes(
        self, nodes: Sequence[BaseNode], show_progress: bool = False, **_: Any
    ) -> list[BaseNode]:
        cuts = await asyncio.to_thread(self._cuts, nodes)
        parsed: list[BaseNode] = []
        starts = range(0, len(cuts), AT_ONCE)
        for start in get_tqdm_iterable(starts, show_progress, "Late chunking"):
            some = cuts[start : start + AT_ONCE]
            rows = await asyncio.gather(*map(self._avectors, some))
            for cut, vectors in zip(some, rows, strict=True):
                parsed += cut.with_vectors(vectors)
        return parsed

    def _postprocess_parsed_nodes(
        self, nodes: list[BaseNode], parent_doc_map: dict[str, Document]
    ) -> list[BaseNode]:
        # The splitter did it, and the base class would look for their places anew.
        del parent_doc_map
        return nodes

    def _cuts(self, documents: Sequence[BaseNode]) -> list[Cut]:
        return list(cuts_of(documents, self.splitter, self.metadata_mode))

    def _vectors(self, cut: Cut) -> list[list[float]]:
        return self.embedding.get_chunk_embeddings(cut.text, cut.spans)

    async def _avectors(self, cut: Cut) -> list[list[float]]:
        return await self.embedding.aget_chunk_embeddings(cut.text, cut.spans)


def _loaded(told: Mapping[str, Any]) -> NodeParser:
    data = dict(told)
    # Told by its name, which no splitter of LlamaIndex's takes.
    if data.get("id_func") in (
        None,
        {"id_func_name": default_id_func.__name__, "title": "id_func"},
    ):
        data.pop("id_func", None)
    error = None
    # Several classes have the name of their base; LlamaIndex would take the last of them.
    if data.get("class_name") != BaseComponent.class_name():
        try:
            return load_parser(data)
        except ValueError as raised:
            error = raised
    raise InputError(
        f"splitter {data.get('class_name')!r} cannot be made of what it tells of itself: give "
        "from_dict(data, splitter=…)"
    ) from error


def _check(splitter: object, embedding: object) -> None:
    if not isinstance(splitter, NodeParser):
        raise InputError(
            f"splitter is {type(splitter).__name__}: expected one of LlamaIndex's text splitters, "
            "or another NodeParser; LangChain's go into a LangchainNodeParser"
        )
    if not isinstance(embedding, TaskvecEmbedding):
        raise InputError(f"embedding is {type(embedding).__name__}: expected a TaskvecEmbedding")
