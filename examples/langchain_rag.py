"""Questions answered from retrieved passages, with each passage read in its document or alone.

The documents are docstrings of the running Python's standard library. Cut into passages, most no
longer name what they describe: late chunking reads each document whole before it is cut. For every
question the example shows at which place the passage that answers it is found in both ways, what of
the question that passage lacks, and which passages a chat model would have been given. A model of
langchain-core that repeats its prompt stands in for one that answers; put your own in its place.
Needs taskvec[langchain]. Run: python examples/langchain_rag.py
"""

import importlib
import inspect
import re
from typing import Any, NamedTuple

from langchain_core.documents import Document
from langchain_core.language_models import ParrotFakeChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableParallel, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter

from taskvec.adapters.langchain import TaskvecEmbeddings
from taskvec.integrations.langchain import index_documents

MODULES = ("os", "shutil", "subprocess", "tempfile", "threading")
SHORTEST = 500  # characters of a docstring that is worth cutting
GIVEN = 3  # passages that a model is given


class Question(NamedTuple):
    """What is asked, the document that answers it, and words of the passage that does."""

    text: str
    source: str
    answer: str


QUESTIONS = [
    Question("Who deletes the file that mkstemp made?", "tempfile.mkstemp", "responsible for"),
    Question(
        "Which mode does mkstemp open its file in by default?", "tempfile.mkstemp", "binary mode"
    ),
    Question(
        "What does copytree do with a destination that exists?",
        "shutil.copytree",
        "dirs_exist_ok is false",
    ),
    Question("How do I make rmtree go on after errors?", "shutil.rmtree", "ignore_errors is set"),
    Question(
        "What does acquiring a semaphore return when the timeout runs out?",
        "threading.Semaphore.acquire",
        "that interval, return false",
    ),
    Question(
        "What if subprocess.run started a command that takes too long?",
        "subprocess.run",
        "takes too long",
    ),
    Question("Does os.walk follow symbolic links?", "os.walk", "does not follow symbolic links"),
    Question(
        "What must a thread hold before it waits on a condition?",
        "threading.Condition.wait",
        "has not acquired the lock",
    ),
]
PROMPT = ChatPromptTemplate.from_messages(
    [
        ("system", "Answer the question from the passages alone, and name their sources."),
        ("human", "{question}\n\n{passages}"),
    ]
)


def documents() -> list[Document]:
    """The longer docstrings of public classes, methods and functions, under their names."""
    found = {}
    for module in MODULES:
        for name, member in vars(importlib.import_module(module)).items():
            inner = vars(member).items() if inspect.isclass(member) else ()
            for path, described in [(name, member), *((f"{name}.{key}", it) for key, it in inner)]:
                text = inspect.getdoc(described) if callable(described) else None
                if text and len(text) >= SHORTEST and not re.search(r"(^|\.)_", path):
                    found[text] = f"{module}.{path}"
    return [
        Document(f"{name}\n\n{text}", metadata={"source": name}) for text, name in found.items()
    ]


def filled(late: bool) -> InMemoryVectorStore:
    """All passages, each with the vector of its place in its document, or of its text alone."""
    store = InMemoryVectorStore(TaskvecEmbeddings())
    splitter = RecursiveCharacterTextSplitter(chunk_size=250, chunk_overlap=0)
    index_documents(store, documents(), splitter=splitter, late_chunking=late)
    return store


def chain(store: InMemoryVectorStore) -> Runnable[str, dict[str, Any]]:
    """From a question to the question, the documents that were found for it, and the answer."""

    def passages(given: dict[str, Any]) -> str:
        return "\n\n".join(f"[{d.metadata['source']}] {flat(d)}" for d in given["documents"])

    answer = (
        RunnablePassthrough.assign(passages=passages)
        | PROMPT
        | ParrotFakeChatModel()
        | StrOutputParser()
    )
    retriever = store.as_retriever(search_kwargs={"k": GIVEN})
    found: Runnable[str, dict[str, Any]] = RunnableParallel(
        question=RunnablePassthrough(), documents=retriever
    )
    return found.assign(answer=answer)


def flat(document: Document) -> str:
    """A passage on one line."""
    return " ".join(document.page_content.split())


def words(text: str) -> set[str]:
    """The words of a text that say something: those of five letters and more."""
    return set(re.findall(r"[a-z_]{5,}", text.lower()))


def place(store: InMemoryVectorStore, question: Question) -> tuple[int, Document] | None:
    """Where the passage that answers a question stands among all of them, counted from 1."""
    found = store.similarity_search(question.text, k=len(store.store))
    for number, passage in enumerate(found, 1):
        if passage.metadata["source"] == question.source and question.answer in flat(passage):
            return number, passage
    return None  # another Python's docstrings


def given(store: InMemoryVectorStore, question: Question) -> dict[str | None, Document]:
    """The passages that a model is given, the nearest first, by their ids."""
    return {found.id: found for found in chain(store).invoke(question.text)["documents"]}


class Compared(NamedTuple):
    """By how many places late chunking brings the answer nearer, and if its passage lacks words."""

    gain: int
    lacking: bool


def compare(
    question: Question, whole: str, late: InMemoryVectorStore, alone: InMemoryVectorStore
) -> Compared | None:
    """Print what both ways find for a question. whole: the text of the document that answers."""
    ranked, other = place(late, question), place(alone, question)
    if ranked is None or other is None:
        return None
    passage = ranked[1]
    lacking = (words(question.text) - words(flat(passage))) & words(whole)
    print(f"\n{question.text}")
    print(f"  answered by [{question.source}] {flat(passage)[:70]}…")
    print(f"  found at place {ranked[0]} with late chunking, {other[0]} without")
    if lacking:
        print(f"  of the question it lacks {sorted(lacking)}, which its document has")
    else:
        print("  it has all words of the question that its document has")
    by_late, by_alone = (given(store, question) for store in (late, alone))
    for label, these, those in (("late", by_late, by_alone), ("alone", by_alone, by_late)):
        for key in (key for key in these if key not in those):
            print(f"  only {label}: [{these[key].metadata['source']}] {flat(these[key])[:60]}…")
    return Compared(other[0] - ranked[0], bool(lacking))


def main() -> None:
    texts = {document.metadata["source"]: document.page_content for document in documents()}
    late, alone = filled(late=True), filled(late=False)
    print(f"{len(late.store)} passages; a model is given {GIVEN} of them, such as")
    print("\n" + chain(late).invoke(QUESTIONS[0].text)["answer"])
    made = [compare(q, texts.get(q.source, ""), late, alone) for q in QUESTIONS]
    print("\nWith late chunking, of the passages that answer")
    for lacking in (True, False):
        gains = [one.gain for one in made if one is not None and one.lacking == lacking]
        nearer, further = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
        kind = "lack words of the question" if lacking else "lack none"
        print(f"  the {len(gains)} that {kind}: {nearer} nearer, {further} further off")


if __name__ == "__main__":
    main()
