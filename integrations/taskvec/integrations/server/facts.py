"""What is known of a request, for its log line, its span and the metrics."""

from dataclasses import dataclass

from taskvec.core.embedder import Lane

NONE = "none"


@dataclass
class Facts:
    """One request; never a text of it. key: the number of its API key."""

    id: str
    method: str
    route: str
    key: int | None = None
    task: str = ""
    lane: str = ""
    texts: int = 0
    tokens: int = 0

    def fill(self, task: str | None, lane: Lane, *, texts: int, tokens: int) -> None:
        """Note what is about to be encoded."""
        self.task, self.lane, self.texts, self.tokens = task or NONE, lane, texts, tokens
