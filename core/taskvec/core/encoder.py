"""The encoder: texts in, unit vectors out, each with the right LoRA, prompt and dim."""

import hashlib
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NoReturn, Self

from taskvec.core.checkpoint import Checkpoint, base_digest, lora_digest
from taskvec.core.config import Layout, ModelConfig
from taskvec.core.embedder import Array, Lane, Overflow, Span, TaskArgument
from taskvec.core.engine import Engine
from taskvec.core.feeding import Feeder
from taskvec.core.inputs import check_lane, check_positive
from taskvec.core.loading import build_models, open_checkpoint
from taskvec.core.model import Model
from taskvec.core.peft_format import read_peft
from taskvec.core.placement import TOKEN_BUDGETS, choose_devices
from taskvec.core.pooling import check_dim
from taskvec.core.preparing import Preparer
from taskvec.core.saving import SavedDtype, writer
from taskvec.core.stats import Stats
from taskvec.core.tasks import Tasks, check_new_task
from taskvec.core.threads import on_own_thread
from taskvec.core.tokenizer import Tokenizer
from taskvec.core.writing import new_folder

# Bumped whenever the same weights would give other vectors than before.
VECTORS_VERSION = 1
# A text of no more characters is tokenized on the event loop itself: that is quicker than the way
# to a thread and back.
SHORT = 2000


class Encoder:
    """A jina-embeddings-v3 model on one device or several. Any thread may call any method.

    Example:
        >>> from taskvec.core import Encoder
        >>> with Encoder.load("starter") as encoder:
        ...     encoder.encode("how to parse JSON", task="retrieval.query", dim=64).shape
        (64,)
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokenizer: Tokenizer,
        models: Sequence[Model],
        *,
        max_tokens: int,
        token_budget: int,
        queue_tokens: int | None,
    ) -> None:
        """Use `Encoder.load`."""
        self._checkpoint = checkpoint
        self._tokenizer = tokenizer
        self._models = tuple(models)
        self._preparer = Preparer(tokenizer, max_tokens=max_tokens)
        prompts = checkpoint.config.prompts
        self._tasks = Tasks(
            self._preparer.task(name, prompts.get(name, ""), checkpoint.lora(name))
            for name in checkpoint.tasks
        )
        for model in models:
            model.set_tasks(self._tasks.all)
        self._changing = threading.Lock()
        self._engine = Engine(models, token_budget=token_budget, queue_tokens=queue_tokens)
        self._feeder = Feeder(self._engine)
        self._finalizer = weakref.finalize(self, _shut, self._engine, self._feeder)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_tokens: int | None = None,
        revision: str | None = None,
        token_budget: int | None = None,
        queue_tokens: int | None = None,
    ) -> Self:
        """Load a model.

        Args:
            source: "starter" (packaged), a folder in either published layout, or a hub id.
            device: "auto", "cpu", "cuda", "cuda:1", "mps"; "cuda:0,cuda:1" or "cuda:*" for a
                replica on each. Several on one CPU ("cpu,cpu") take turns at its cores: for tests.
            dtype: "auto", "float32", "bfloat16" or "float16". Auto is bfloat16 where the
                hardware multiplies it, else float32. "int8" rounds weights, and inputs by each
                batch's range: for CPUs with VNNI and without AMX.
            max_tokens: a shorter context than the model's own.
            revision: branch, tag or commit of a hub model.
            token_budget: tokens per forward pass; a longer text runs alone.
            queue_tokens: tokens that may wait in each lane, 256 forward passes by default; see
                `wait` of `encode`.

        Raises:
            CheckpointError: the files are missing, broken, or of another architecture.
            InputError: an option that cannot be served.
        """
        check_positive("token_budget", token_budget)
        check_positive("queue_tokens", queue_tokens)

        devices = choose_devices(device)
        checkpoint, tokenizer = open_checkpoint(source, revision)
        limit = checkpoint.config.max_tokens
        check_positive("max_tokens", max_tokens, low=3, high=limit)
        return on_own_thread(
            lambda: cls(
                checkpoint,
                tokenizer,
                build_models(checkpoint, devices, dtype),
                max_tokens=max_tokens or limit,
                token_budget=token_budget or TOKEN_BUDGETS[devices[0].type],
                queue_tokens=queue_tokens,
            )
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the model has a LoRA for."""
        return self._tasks.names

    @property
    def prompts(self) -> Mapping[str, str]:
        """What each task puts before a text; "" for none."""
        return self._tasks.prompts

    @property
    def dims(self) -> tuple[int, ...]:
        """Matryoshka dims that the model was trained for, ascending."""
        return self._checkpoint.config.dims

    @property
    def dim(self) -> int:
        """The full dim: the largest of `dims`."""
        return self.dims[-1]

    @property
    def max_tokens(self) -> int:
        """The context in tokens, specials and prompt included."""
        return self._preparer.max_tokens

    @property
    def config(self) -> ModelConfig:
        """Sizes and settings of the model."""
        return self._checkpoint.config

    @property
    def device(self) -> str:
        """Where the model runs, such as "cpu" or "cuda:0,cuda:1"."""
        return ",".join(str(model.device) for model in self._models)

    @property
    def dtype(self) -> str:
        """The number format of the weights, such as "bfloat16"."""
        model = self._models[0]
        return "int8" if model.int8 else str(model.dtype).removeprefix("torch.")

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        task: TaskArgument = None,
        dim: int | None = None,
        lane: Lane = "bulk",
        overflow: Overflow = "truncate",
        show_progress: bool = False,
        wait: bool = True,
    ) -> Array:
        """Vectors of whole texts.

        Args:
            texts: a str, or a list of B; empty and blank ones are legal.
            task: a name of `tasks`, None for the base weights, or a list with one per text.
            dim: one of `dims`; None for the full one.
            lane: "query" goes before "bulk" when both wait.
            overflow: "truncate" cuts a text at `max_tokens`, "error" refuses it.
            show_progress: a bar on stderr.
            wait: what to do when the lane's queue is full: wait for room, first come first
                served, or raise BusyError at once. A call that has begun is never refused.

        Returns:
            (B, dim) float32 of unit L2 norm; (dim,) for a str.

        Raises:
            InputError: naming the item at fault; TaskError, DimensionError, LengthError.
            BusyError: the encoder is closed, or its queue full.
        """
        kept = check_dim(dim, self.dims)
        check_lane(lane)
        job = self._preparer.texts(self._tasks, texts, task, overflow)
        vectors = self._feeder.run(job, dim=kept, lane=lane, wait=wait, show_progress=show_progress)
        return vectors[0] if isinstance(texts, str) else vectors

    async def aencode(
        self,
        texts: str | Sequence[str],
        *,
        task: TaskArgument = None,
        dim: int | None = None,
        lane: Lane = "bulk",
        overflow: Overflow = "truncate",
        show_progress: bool = False,
        wait: bool = True,
    ) -> Array:
        """`encode`, awaited: no thread waits for it, and cancelling it frees its rows."""
        kept = check_dim(dim, self.dims)
        check_lane(lane)
        vectors = await self._feeder.arun(
            partial(self._preparer.texts, self._tasks, texts, task, overflow),
            aside=not isinstance(texts, str) or len(texts) > SHORT,
            dim=kept,
            lane=lane,
            wait=wait,
            show_progress=show_progress,
        )
        return vectors[0] if isinstance(texts, str) else vectors

    def encode_chunks(
        self,
        document: str,
        spans: Sequence[Span],
        *,
        task: str | None = "retrieval.passage",
        dim: int | None = None,
        wait: bool = True,
    ) -> Array:
        """Late chunking: read the document once, pool the token vectors of each span.

        A token belongs to the span that holds its last character; a span of white space alone
        takes the token after it. The first span also takes BOS and the prompt, the last one EOS,
        so that one span over a text within the context gives what `encode` gives. A document
        longer than `max_tokens` is read in overlapping windows, nothing is cut off.

        Args:
            document: the whole text.
            spans: K half-open ranges of characters, in any order; they may overlap.
            task: a name of `tasks`, or None for the base weights.
            dim: one of `dims`; None for the full one.
            wait: as for `encode`.

        Returns:
            (K, dim) float32 of unit L2 norm.

        Raises:
            InputError: a span outside the text, an unknown task or dim.
            BusyError: the encoder is closed, or its queue full.

        Source: arXiv:2409.04701.
        """
        kept = check_dim(dim, self.dims)
        self._engine.check_open()
        job = self._preparer.chunks(self._tasks, document, spans, task)
        return self._feeder.run(job, dim=kept, lane="bulk", wait=wait)

    async def aencode_chunks(
        self,
        document: str,
        spans: Sequence[Span],
        *,
        task: str | None = "retrieval.passage",
        dim: int | None = None,
        wait: bool = True,
    ) -> Array:
        """`encode_chunks`, awaited."""
        kept = check_dim(dim, self.dims)
        prepare = partial(self._preparer.chunks, self._tasks, document, spans, task)
        return await self._feeder.arun(prepare, aside=True, dim=kept, lane="bulk", wait=wait)

    def count_tokens(self, texts: str | Sequence[str], *, task: TaskArgument = None) -> list[int]:
        """Tokens of each whole text, specials included, and the prompt where a task is given.

        Never truncated: compare with `max_tokens` to see what `encode` would cut.
        """
        self._engine.check_process()
        return self._preparer.counts(self._tasks, texts, task)

    def fingerprint(self, task: str | None = None, dim: int | None = None) -> str:
        """A string that changes whenever the vectors of this task and dim would.

        It covers weights, LoRA, prompt, tokenizer, context, pooling and dim; not device, dtype
        or file layout, which move vectors by floating-point noise alone. Keep it beside stored
        vectors. The first call reads all weights once.
        """
        self._engine.check_process()
        kept = check_dim(dim, self.dims)
        [found] = self._tasks.find([task], max_tokens=self.max_tokens)
        base, lora = on_own_thread(
            lambda: (self._base_digest, lora_digest(found.lora) if found else "")
        )
        prompt = found.prompt if found else ""
        parts = (base, lora, prompt, str(self.max_tokens), "mean", str(kept))
        digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass"))
        return f"taskvec{VECTORS_VERSION}-{digest.hexdigest()[:32]}"

    def stats(self) -> Stats:
        """What the encoder has done since it was loaded, and what waits in its queues."""
        return self._engine.stats()

    def add_task(self, name: str, peft_folder: str | Path, *, prompt: str = "") -> None:
        """Serve a LoRA of your own beside the model's, at once and in the same batches.

        Raises TaskError for a name that is taken or not one for a folder, InputError for a prompt
        that is no text, CheckpointError for a LoRA of another base.
        """
        check_new_task(name, prompt)

        def plus(tasks: Tasks) -> Tasks:
            lora = read_peft(Path(peft_folder), self.config)
            return tasks.plus(self._preparer.task(name, prompt, lora))

        on_own_thread(lambda: self._change(plus))

    def remove_task(self, name: str) -> None:
        """Stop serving a task; texts still queued for it fail with TaskError."""
        on_own_thread(lambda: self._change(lambda tasks: tasks.minus(name)))

    def save(
        self, folder: str | Path, layout: Layout = "jina", *, dtype: SavedDtype = "stored"
    ) -> None:
        """Write the model with all its present tasks to a new folder.

        Layout "jina" is the original one, "hf" the one that transformers and PEFT load. Weights
        keep the dtype that they were stored in (int8 rows as float32); dtype "int8" rounds the base
        matrices to int8 with a factor for each row, a quarter of float32's size, in a file of
        layout "jina" that taskvec alone loads. That is another model: its fingerprints differ.
        LoRAs are kept as they are. On
        an error nothing is left behind. Raises InputError for a layout or dtype that is none.
        """
        save = writer(layout, dtype)
        self._engine.check_process()
        tasks = self._tasks

        def write() -> None:
            with new_folder(Path(folder)) as scratch:
                save(scratch, self._checkpoint, tasks.loras, tasks.prompts)
                self._tokenizer.save(scratch)

        on_own_thread(write)

    def close(self) -> None:
        """Finish what is queued and end the threads. Closing twice does nothing.

        A call whose texts wait for room in the queue, or have not come that far, fails with
        BusyError.
        """
        self._finalizer.detach()
        _shut(self._engine, self._feeder)

    def __enter__(self) -> Self:
        """Use as a context manager that closes at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        config = self.config
        size = f"{config.layers} layers, {config.hidden} wide"
        return f"<Encoder {size}, tasks {self.tasks}, {self.dtype} on {self.device}>"

    def __deepcopy__(self, memo: object) -> Self:
        """Itself: weights and threads are shared, never copied."""
        return self

    def __reduce__(self) -> NoReturn:
        """Weights and threads do not travel."""
        raise TypeError(
            "an Encoder cannot be pickled: load it in the other process, or pickle a "
            "shared_encoder, which does so by itself"
        )

    def _change(self, change: Callable[[Tasks], Tasks]) -> None:
        """Change the tasks of all replicas, or of none if one raises."""
        with self._changing:
            tasks = change(self._tasks)
            with self._engine.exclusively() as models:
                try:
                    for model in models:
                        model.set_tasks(tasks.all)
                except BaseException:
                    for model in models:
                        model.set_tasks(self._tasks.all)
                    raise
                self._tasks = tasks

    @cached_property
    def _base_digest(self) -> str:
        tokenizer = hashlib.sha256(self._tokenizer.to_json().encode())
        return base_digest(self._checkpoint) + tokenizer.hexdigest()


def _shut(engine: Engine, feeder: Feeder) -> None:
    engine.close()
    feeder.close()
