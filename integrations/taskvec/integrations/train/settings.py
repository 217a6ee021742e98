"""What a run of a training stage is told: a TOML file, the command line, or Python.

Every stage has a class here; a key of its file is a field of that class.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from taskvec.core.config import check_task_name
from taskvec.core.errors import InputError

# The folder beside a LoRA's that holds its run.
RUN = "run"


def _task_name(name: str) -> str:
    checked = check_task_name(name)
    if lora_folder(checked) == RUN:
        raise ValueError(f"{name!r} is the name of the run's own folder")
    return checked


def lora_folder(name: str) -> str:
    """The folder of a task's LoRA below a run's: `legal.query` becomes `legal_query`."""
    return name.replace(".", "_").replace("-", "_")


def _several(given: Any) -> Any:
    return (given,) if isinstance(given, str | Path) else given


Files = Annotated[tuple[Path, ...], BeforeValidator(_several)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
TaskName = Annotated[str, AfterValidator(_task_name)]
S = TypeVar("S", bound="Stage")


class Stage(BaseModel):
    """What all stages share.

    model: a folder or hub id, whose weights are the start. data: JSON lines, CSV, TSV or Parquet.
    out: the run's folder. rope_base: of the rotary positions while training; what is written
    keeps the start's. dropout: of attention and hidden states while training, whatever the model's
    config says; on a CPU it takes attention's fast kernels away. save_steps: the most that a kill
    costs. device: "auto", "cpu" or "cuda".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "starter"
    data: Files = Field(min_length=1)
    out: Path
    learning_rate: Rate
    warmup: Share = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    rope_base: Rate | None = None
    dropout: Share = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    save_steps: Positive = 100
    log_steps: Positive = 10
    device: Literal["auto", "cpu", "cuda"] = "auto"


class RowStage(Stage):
    """What the stages share that learn from rows in batches of a fixed size.

    epochs counts unless steps is given. max_tokens: where a text is cut. dim_weights: how much a
    Matryoshka dim's loss counts, 1 where it is not named. strength: what is written is that much of
    the LoRA, or of the way from the start of all weights: less of it keeps more of what the model
    does with texts unlike those trained on, arXiv:2109.01903, section 3.
    """

    epochs: Rate = 1.0
    steps: Positive | None = None
    batch_size: Annotated[int, Field(ge=2)] = 32
    max_tokens: Annotated[int, Field(ge=4)] = 256
    dim_weights: dict[int, Rate] = Field(default_factory=dict)
    strength: Annotated[float, Field(gt=0, le=1)] = 1.0


class PairStage(RowStage):
    """What the stages share that contrast pairs.

    temperature: of the cosines. teachers: sentence-transformers models whose ranking of a batch
    is learnt too, with weight teacher_weight; several count as their mean. cosine_weight: how much
    it counts beside that the cosines are theirs, not the ranking alone. memory: how many earlier
    batches, of whatever file, are ranked as well: a cross-batch memory. pivot_teachers: more of
    them, which read a text's pivot, say its English original, in its place where a column
    `…_pivot` has one: arXiv:2004.09813, section 2.
    """

    temperature: Rate = 0.05
    teachers: tuple[str, ...] = ()
    pivot_teachers: tuple[str, ...] = ()
    teacher_weight: Rate = 1.0
    cosine_weight: Annotated[float, Field(ge=0)] = 0.0
    memory: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _of_teachers(self) -> Self:
        if self.cosine_weight and not self.is_taught:
            raise ValueError("cosine_weight: there are no teachers whose cosines to learn")
        if self.memory and not self.is_taught:
            raise ValueError("memory: there are no teachers who would rank what is remembered")
        return self

    @property
    def is_taught(self) -> bool:
        """Whether there is any teacher."""
        return bool(self.teachers or self.pivot_teachers)


class Phase(BaseModel):
    """A part of pre-training: texts in rows of at most max_tokens, for some epochs or steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: Annotated[int, Field(ge=4)]
    epochs: Rate = 1.0
    steps: Positive | None = None


class PretrainSettings(Stage):
    """Stage 1, masked-language modelling. data has a column `text`.

    phases: short rows first, long ones after. token_budget: of a batch, padding included.
    mask: the share of tokens to guess. fresh: start from random weights of the model's shape.
    """

    learning_rate: Rate = 2e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    phases: tuple[Phase, ...] = (Phase(max_tokens=512), Phase(max_tokens=2048, epochs=0.1))
    token_budget: Positive = 4096
    mask: Annotated[float, Field(gt=0, lt=1)] = 0.3
    fresh: bool = False


class PairsSettings(PairStage):
    """Stage 2, contrast of pairs, by all weights. data: columns `anchor`, `positive`, `negative…`.

    mine: hard negatives to find for every pair.
    """

    learning_rate: Rate = 2e-5
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    mine: Annotated[int, Field(ge=0)] = 0


class TaskSettings(PairStage):
    """Stage 3, a LoRA on the frozen model.

    data decides the loss: pairs (`anchor`, `positive`, `negative…`), scored pairs (`text1`,
    `text2`, `score`) or labelled texts (`text`, `label`). passage_name: a second LoRA, for the
    positives and negatives of pairs. start: a task of the model whose LoRA is the start.
    Teachers are of pairs alone; scores and labels keep to the model itself instead.
    anchor: how much it counts, with scores and labels, that the cosines of a batch stay near those
    without the LoRA, and their mean at mean_cosine_share of theirs: the further apart texts lie,
    the easier a classifier tells them apart. 0 leaves the loss alone, and costs a third less.
    embedding_learning_rate: of the LoRAs on tables, where every step moves few rows far.
    """

    name: TaskName
    prompt: str = ""
    passage_name: TaskName | None = None
    passage_prompt: str = ""
    start: str | None = None
    passage_start: str | None = None
    learning_rate: Rate = 1e-3
    embedding_learning_rate: Rate = 2e-4
    anchor: Annotated[float, Field(ge=0)] = 0.0
    mean_cosine_share: Annotated[float, Field(ge=0, le=1)] = 0.8
    rank: Positive = 4
    alpha: Rate = 1.0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.passage_name and lora_folder(self.passage_name) == lora_folder(self.name):
            raise ValueError("passage_name: a second LoRA needs a name of its own")
        if "mean_cosine_share" in self.model_fields_set and not self.anchor:
            raise ValueError("mean_cosine_share: without an anchor nothing asks for it")
        if self.passage_name is None and (self.passage_prompt or self.passage_start):
            raise ValueError("passage_prompt and passage_start need a passage_name")
        return self


def read_settings(kind: type[S], path: Path | None, given: Mapping[str, Any]) -> S:
    """Settings of a stage from a TOML file, if any, and what is given beside it, which wins.

    Paths in the file are relative to its folder, and so are models that are folders there.
    Raises InputError for a file that is no TOML and for a key or value that the stage does not
    know, each by name.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is no TOML file: {error}") from error
        values = _from_folder(values, path.parent)
    try:
        return kind.model_validate(values | dict(given))
    except ValidationError as error:
        raise InputError(f"{path or 'settings'}: {_told(error)}") from error


def _from_folder(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    known: dict[str, Any] = {}
    if isinstance(values.get("out"), str):
        known["out"] = folder / values["out"]
    if isinstance(values.get("data"), str):
        known["data"] = (folder / values["data"],)
    elif isinstance(values.get("data"), list):
        known["data"] = tuple(folder / str(name) for name in values["data"])
    if isinstance(values.get("model"), str):
        known["model"] = _model_from(folder, values["model"])
    for key in ("teachers", "pivot_teachers"):
        if isinstance(values.get(key), list):
            known[key] = tuple(_model_from(folder, str(name)) for name in values[key])
    return values | known


def _model_from(folder: Path, name: str) -> str:
    """A model that is a folder beside the file, else the name as it stands: a hub id."""
    return str(folder / name) if (folder / name).is_dir() else name


def _told(error: ValidationError) -> str:
    parts = []
    for entry in error.errors():
        place = ".".join(str(part) for part in entry["loc"] if part != "[key]")
        parts.append(f"{place}: {entry['msg']}" if place else entry["msg"])
    return "; ".join(parts)
