"""A text cut where its subject changes, by LangChain's semantic chunker, and then searched.

The chunker compares sentences with sentences: one task for both roles. The search that follows
compares questions with passages: its two tasks. Both have the same encoder.
Needs taskvec[langchain] and langchain-experimental, which is no longer developed.
Run: python examples/langchain_semantic_chunks.py
"""

import warnings

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from taskvec.adapters.langchain import TaskvecEmbeddings
from taskvec.integrations.langchain import index_documents

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of the package as a whole
    from langchain_experimental.text_splitter import SemanticChunker

SUBJECTS = [
    (
        "Bees live in colonies of many thousands. A hive has one queen, who lays all the eggs. "
        "Workers gather nectar and turn it into honey. In winter they cling together to keep warm."
    ),
    (
        "A violin has four strings, tuned in fifths. The bow is strung with horsehair. The player "
        "presses the strings against the fingerboard. Its body is carved from spruce and maple."
    ),
    (
        "Glaciers form where more snow falls than melts. Their ice flows downhill. They carve "
        "deep valleys into the rock. Where they end, they leave walls of rubble, called moraines."
    ),
]
QUESTION = "What is left behind where the ice ends?"


def cuts(task: str | None) -> tuple[list[str], int]:
    """The chunks of all subjects in one text, and how many begin where a subject does."""
    chunker = SemanticChunker(
        TaskvecEmbeddings(task=task), buffer_size=0, number_of_chunks=len(SUBJECTS)
    )
    chunks = chunker.split_text(" ".join(SUBJECTS))
    found = sum(any(chunk.startswith(subject[:20]) for chunk in chunks) for subject in SUBJECTS[1:])
    return chunks, found


def main() -> None:
    boundaries = len(SUBJECTS) - 1
    print(f"Of {boundaries} changes of subject, the chunker cuts at")
    for task in ("separation", "text-matching", None):
        chunks, found = cuts(task)
        named = task or "retrieval.passage, where no task is named"
        print(f"  {found}, with {len(chunks) - 1} cuts: {named}")

    print("\nChunks under separation:")
    for chunk in cuts("separation")[0]:
        print(f"  {chunk[:76]}…")

    store = InMemoryVectorStore(TaskvecEmbeddings())
    splitter = SemanticChunker(
        TaskvecEmbeddings(task="separation"), buffer_size=0, number_of_chunks=len(SUBJECTS)
    )
    index_documents(store, [Document(" ".join(SUBJECTS))], splitter=splitter)
    print(f"\n{QUESTION}")
    for document, score in store.similarity_search_with_score(QUESTION, k=2):
        print(f"  {score:.3f}  {document.page_content[:68]}…")


if __name__ == "__main__":
    main()
