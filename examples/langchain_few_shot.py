"""Examples for a prompt, chosen by LangChain's selector: like texts by a task made for likeness.

Messages are compared with messages, so both roles need one task: `task=` sets it. How often the
nearest message is of the same kind is counted for each task at the end.
Needs taskvec[langchain]. Run: python examples/langchain_few_shot.py
"""

from langchain_core.example_selectors import SemanticSimilarityExampleSelector
from langchain_core.prompts import FewShotPromptTemplate, PromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore

from taskvec.adapters.langchain import TaskvecEmbeddings

MESSAGES = {
    "billing": [
        "You charged my card twice this month.",
        "Where do I find last year's invoices?",
        "Please send the receipt to our accounting department.",
        "The discount is missing from my bill.",
    ],
    "delivery": [
        "My parcel has been stuck in the depot since Monday.",
        "Can the courier leave it with a neighbour?",
        "The box arrived with a dent in one corner.",
        "I would like it brought to another address.",
    ],
    "account": [
        "I cannot log in, it says my password is wrong.",
        "How do I change the e-mail that I sign in with?",
        "Delete everything that you know of me.",
        "The code for the second step of the login never comes.",
    ],
    "device": [
        "The screen stays black when I press the button.",
        "It gets hot while charging and then turns itself off.",
        "The left speaker crackles at high volume.",
        "Since the update it no longer finds my headphones.",
    ],
}
EXAMPLES = [{"message": text, "kind": kind} for kind, texts in MESSAGES.items() for text in texts]
NEW = "The driver rang at the wrong house and took it away again."


def selector(task: str | None, count: int) -> SemanticSimilarityExampleSelector:
    """Chooses the `count` examples whose messages are nearest; None has a search's two tasks."""
    return SemanticSimilarityExampleSelector.from_examples(
        EXAMPLES,
        TaskvecEmbeddings(task=task),
        InMemoryVectorStore,
        k=count,
        input_keys=["message"],
    )


def agreement(task: str | None) -> float:
    """The share of messages whose nearest other message is of their kind."""
    nearest = selector(task, 2)
    right = 0
    for example in EXAMPLES:
        found = nearest.select_examples({"message": example["message"]})
        others = [other for other in found if other != example]
        right += others[0]["kind"] == example["kind"]
    return right / len(EXAMPLES)


def main() -> None:
    prompt = FewShotPromptTemplate(
        example_selector=selector("classification", 3),
        example_prompt=PromptTemplate.from_template("Message: {message}\nKind: {kind}"),
        prefix=f"Which kind of message is it: {', '.join(MESSAGES)}?",
        suffix="Message: {message}\nKind:",
        input_variables=["message"],
    )
    print(prompt.format(message=NEW))
    print("\nShare of messages whose nearest other message is of their kind, by task:")
    for task in ("classification", "text-matching", "separation", None):
        print(f"  {agreement(task):.2f}  {task or 'retrieval.query and retrieval.passage'}")


if __name__ == "__main__":
    main()
