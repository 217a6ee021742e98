"""The tasks that an encoder serves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskvec.core.config import check_task_name
from taskvec.core.errors import InputError, LengthError, TaskError
from taskvec.core.inputs import check_task

if TYPE_CHECKING:
    from taskvec.core.checkpoint import Lora


@dataclass(frozen=True, eq=False)
class Task:
    """A task that is served. Two with the same name are still two: a text keeps its own.

    head: tokens that BOS and the prompt take.
    """

    name: str
    prompt: str
    lora: "Lora"
    head: int


class Tasks:
    """The tasks of one moment. Never changed, only replaced as a whole."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.all = tuple(tasks)
        self._by_name = {task.name: task for task in self.all}

    @property
    def names(self) -> tuple[str, ...]:
        """Names, in the checkpoint's order, a user's own last."""
        return tuple(self._by_name)

    @property
    def prompts(self) -> dict[str, str]:
        """What each task puts before a text; "" for none."""
        return {task.name: task.prompt for task in self.all}

    @property
    def loras(self) -> "dict[str, Lora]":
        """Each task's LoRA."""
        return {task.name: task.lora for task in self.all}

    def find(self, names: Sequence[str | None], *, max_tokens: int) -> list[Task | None]:
        """The tasks of some names, None for None.

        Raises TaskError for an unknown one, LengthError for one whose prompt fills the context.
        """
        for name in dict.fromkeys(names):
            check_task(name, self.names)
            if name is not None and self._by_name[name].head + 2 > max_tokens:
                raise LengthError(f"the prompt of {name!r} leaves no room in {max_tokens} tokens")
        return [None if name is None else self._by_name[name] for name in names]

    def plus(self, task: Task) -> "Tasks":
        """These and one more. Raises TaskError if its name is taken."""
        if task.name in self._by_name:
            raise TaskError(f"task {task.name!r} exists already: remove it first")
        return Tasks([*self.all, task])

    def minus(self, name: str) -> "Tasks":
        """These without one. Raises TaskError if there is none of that name."""
        if name not in self._by_name:
            raise TaskError(f"unknown task {name!r}: the model has {self.names}")
        return Tasks(task for task in self.all if task.name != name)


def check_new_task(name: str, prompt: str) -> None:
    """Raises TaskError for a name that cannot be a folder's, InputError for a prompt no str."""
    try:
        check_task_name(name)
    except ValueError as error:
        raise TaskError(str(error)) from None
    if not isinstance(prompt, str):
        raise InputError(f"prompt is {type(prompt).__name__}: expected str")
