"""Cuts documents into nodes that know where they stand in them."""

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5

from llama_index.core.node_parser import NodeParser
from llama_index.core.node_parser.node_utils import default_id_func
from llama_index.core.schema import (
    DEFAULT_TEXT_NODE_TMPL,
    BaseNode,
    Document,
    MetadataMode,
    Node,
    TextNode,
)

from taskvec.core.embedder import Span
from taskvec.core.errors import InputError
from taskvec.integrations.llama_index.linking import rename, without_blanks
from taskvec.integrations.spans import find_spans

# Ids are derived from it: with another one, every index would be made anew.
NAMESPACE = UUID("4f2c5f5e-8f0b-5f0e-9d55-0a4a7be2c1d7")


@dataclass(frozen=True)
class Cut:
    """The text that the model reads, K spans of it, and the K nodes that were made of them."""

    text: str
    spans: list[Span]
    nodes: list[BaseNode]

    def with_vectors(self, vectors: Sequence[list[float]]) -> list[BaseNode]:
        """The nodes, each with its vector."""
        for node, vector in zip(self.nodes, vectors, strict=True):
            node.embedding = vector
        return self.nodes


def cuts_of(
    documents: Sequence[BaseNode], splitter: NodeParser, metadata_mode: MetadataMode
) -> Iterator[Cut]:
    """What each document is cut into. Blank documents, and those that come again, are left out.

    Raises InputError for different documents of one id, and for nodes that are no part of their
    document. Warns of several pieces of one document.
    """
    _warn_of_pieces(documents)
    hashes: dict[str, str] = {}
    for document in documents:
        if document.node_id not in hashes:
            hashes[document.node_id] = document.hash
            cut = _cut(document, splitter, metadata_mode)
            if cut.nodes:
                yield cut
        elif hashes[document.node_id] != document.hash:
            raise InputError(
                f"two documents have the same id {document.node_id!r}: give each its own"
            )


def _warn_of_pieces(documents: Sequence[BaseNode]) -> None:
    sources = Counter(
        document.source_node.node_id
        for document in {document.node_id: document for document in documents}.values()
        if document.source_node is not None
    )
    pieces = sum(count for count in sources.values() if count > 1)
    if pieces:
        warnings.warn(
            f"{pieces} of {len(documents)} documents are pieces that a splitter cut before, and "
            "each is read alone, without the rest of its document: give whole documents, with no "
            "splitter before LateChunkingNodeParser",
            stacklevel=2,
        )


def _cut(document: BaseNode, splitter: NodeParser, metadata_mode: MetadataMode) -> Cut:
    before, after = _surroundings(document, metadata_mode)
    text = document.get_content(metadata_mode=MetadataMode.NONE)
    # One by one, for a node need not tell which of several texts it was cut from.
    parts: list[Document] = [document]  # type: ignore[list-item]  # splitters take any node
    nodes = without_blanks(splitter.get_nodes_from_documents(parts))
    try:
        spans = _spans(text, nodes)
    except InputError as error:
        raise InputError(f"document {document.node_id!r}: {error}") from None
    for node, (start, end) in zip(nodes, spans, strict=True):
        if isinstance(node, TextNode):
            node.start_char_idx, node.end_char_idx = start, end
    if splitter.id_func is default_id_func:
        rename(nodes, {node.node_id: _id(document, i, node) for i, node in enumerate(nodes)})
    shifted = [(len(before) + start, len(before) + end) for start, end in spans]
    return Cut(before + text + after, shifted, nodes)


def _surroundings(document: BaseNode, mode: MetadataMode) -> tuple[str, str]:
    """What is read before and after a document's text: its metadata, as its template puts them."""
    metadata = document.get_metadata_str(mode=mode)
    if not metadata.strip():
        return "", ""
    if isinstance(document, Node | TextNode):
        template = document.text_template
    else:
        template = DEFAULT_TEXT_NODE_TMPL
    before, content, after = template.partition("{content}")
    if not content:
        raise InputError(
            f"document {document.node_id!r} has the text_template {template!r}: expected one with "
            "{content} in it"
        )
    return (
        before.format(metadata_str=metadata).lstrip(),
        after.format(metadata_str=metadata).rstrip(),
    )


def _spans(text: str, nodes: Sequence[BaseNode]) -> list[Span]:
    """Where nodes stand: those of a hierarchy are looked for in their parents, which come first."""
    spans: dict[str, Span] = {}
    families: dict[str | None, list[BaseNode]] = {}
    ids = {node.node_id for node in nodes}
    for node in nodes:
        parent = node.parent_node.node_id if node.parent_node else None
        families.setdefault(parent if parent in ids else None, []).append(node)
    for parent, children in families.items():
        first, last = (0, len(text)) if parent is None else spans[parent]
        contents = [child.get_content(metadata_mode=MetadataMode.NONE) for child in children]
        for child, (start, end) in zip(
            children, find_spans(text[first:last], contents), strict=True
        ):
            spans[child.node_id] = (first + start, first + end)
    return [spans[node.node_id] for node in nodes]


def _id(document: BaseNode, number: int, node: BaseNode) -> str:
    content = node.get_content(metadata_mode=MetadataMode.NONE)
    return str(uuid5(NAMESPACE, json.dumps([document.node_id, number, content])))
