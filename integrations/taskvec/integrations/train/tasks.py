"""Stage B: the LoRAs, one task after the other on a frozen body."""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from taskvec.integrations.train import objectives
from taskvec.integrations.train.distil import rate
from taskvec.integrations.train.loras import TaskEncoder
from taskvec.integrations.train.samples import Labelled, Pair

LINEAR_RATE = 4e-3
# Adam moves every row that a batch holds by the rate itself, and PEFT's B is of unit scale.
TABLE_RATE = 2e-4
PAIRS_PER_BATCH = 40
WINDOW = 256
CLASSES_PER_BATCH = 8
TEXTS_PER_CLASS = 4
# Long texts cost time and teach a LoRA little: most of a batch's tokens would be theirs.
PASSAGE_CHARS = 500
TEXT_CHARS = 240
KINDS = {"docstrings": 0.5, "titles": 0.15, "sentences": 0.25, "glosses": 0.1}
RETRIEVAL_ANCHOR = 2.0
LABEL_ANCHOR = 2.0

TeacherVectors = Callable[[Sequence[str]], Tensor]
Step = Callable[[], Tensor]


def optimize(
    parameters: dict[str, Tensor], step: Step, *, minutes: float, name: str
) -> dict[str, float]:
    """Run steps for a time. step: gives the loss of a fresh batch. Returns steps and last loss."""
    tables = [value for path, value in parameters.items() if "lora_embedding" in path]
    linears = [value for path, value in parameters.items() if "lora_embedding" not in path]
    groups = [{"params": linears, "peak": LINEAR_RATE}, {"params": tables, "peak": TABLE_RATE}]
    optimizer = torch.optim.AdamW(groups, lr=LINEAR_RATE, weight_decay=0.0)
    start, steps, average = time.monotonic(), 0, 0.0
    with tqdm(total=round(minutes * 60), unit="s", desc=name) as bar:
        while (elapsed := time.monotonic() - start) < minutes * 60:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate(elapsed / (minutes * 60))
            with torch.autocast("cpu", torch.bfloat16):
                loss = step()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(linears + tables, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            steps += 1
            average = loss.item() if steps == 1 else 0.95 * average + 0.05 * loss.item()
            bar.set_postfix(loss=f"{average:.3f}", steps=steps, refresh=False)
            bar.update(round(time.monotonic() - start) - bar.n)
    return {"steps": steps, "loss": average}


def pair_batches(kinds: dict[str, list[Pair]], seed: int) -> Iterator[list[Pair]]:
    """Endless batches of one kind each, most from a window of alike pairs; no text twice."""
    order = random.Random(seed)  # noqa: S311
    names = [name for name in kinds if kinds[name]]
    while True:
        pairs = kinds[order.choices(names, [KINDS[name] for name in names])[0]]
        if order.random() < 0.7 and len(pairs) > WINDOW:
            start = order.randrange(len(pairs) - WINDOW)
            pairs = pairs[start : start + WINDOW]
        picked = order.sample(pairs, min(PAIRS_PER_BATCH, len(pairs)))
        unique = {pair.query: pair for pair in {pair.passage: pair for pair in picked}.values()}
        yield list(unique.values())


def class_batches(texts: Sequence[Labelled], seed: int) -> Iterator[tuple[list[str], Tensor]]:
    """Endless batches of several texts of several classes of one kind, and their class numbers."""
    order = random.Random(seed)  # noqa: S311
    kinds: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for text, label in texts:
        kinds[label.split()[0]][label].append(text)
    while True:
        classes = kinds[order.choice(sorted(kinds))]
        picked = order.sample(sorted(classes), min(CLASSES_PER_BATCH, len(classes)))
        batch = [order.sample(classes[label], TEXTS_PER_CLASS) for label in picked]
        numbers = torch.arange(len(picked)).repeat_interleave(TEXTS_PER_CLASS)
        yield [text for group in batch for text in group], numbers


def train_retrieval(
    encoder: TaskEncoder,
    teacher: TeacherVectors,
    kinds: dict[str, list[Pair]],
    *,
    minutes: float,
    seed: int,
) -> dict[str, float]:
    """The query and the passage LoRA together, each behind its own prompt."""
    source = pair_batches(kinds, seed)

    def step() -> Tensor:
        batch = next(source)
        queries = [pair.query for pair in batch]
        passages = [pair.passage[:PASSAGE_CHARS] for pair in batch]
        with torch.no_grad():
            teacher_queries, teacher_passages = teacher(queries), teacher(passages)
        ours = encoder(queries, "retrieval.query")
        theirs = encoder(passages, "retrieval.passage")
        loss = objectives.retrieval_loss(ours, theirs, teacher_queries, teacher_passages)
        turned = objectives.anchor_loss(ours, teacher_queries)
        return loss + RETRIEVAL_ANCHOR * (turned + objectives.anchor_loss(theirs, teacher_passages))

    parameters = encoder.train("retrieval.query", "retrieval.passage")
    return optimize(parameters, step, minutes=minutes, name="retrieval")


def train_labelled(
    encoder: TaskEncoder,
    teacher: TeacherVectors,
    texts: Sequence[Labelled],
    task: str,
    *,
    minutes: float,
    seed: int,
) -> dict[str, float]:
    """The separation or the classification LoRA, on texts with a class."""
    source = class_batches(texts, seed)
    losses = {
        "separation": objectives.separation_loss,
        "classification": objectives.classification_loss,
    }

    def step() -> Tensor:
        texts_of_classes, labels = next(source)
        batch = [text[:TEXT_CHARS] for text in texts_of_classes]
        with torch.no_grad():
            wanted = teacher(batch)
        ours = encoder(batch, task)
        return losses[task](ours, labels) + LABEL_ANCHOR * objectives.anchor_loss(ours, wanted)

    return optimize(encoder.train(task), step, minutes=minutes, name=task)


def train_matching(
    encoder: TaskEncoder,
    teacher: TeacherVectors,
    kinds: dict[str, list[Pair]],
    *,
    minutes: float,
    seed: int,
) -> dict[str, float]:
    """The text-matching LoRA: the teacher's cosines between the texts of alike pairs."""
    source = pair_batches(kinds, seed)

    def step() -> Tensor:
        batch = next(source)[: PAIRS_PER_BATCH // 2]
        texts = [pair.query for pair in batch] + [pair.passage[:TEXT_CHARS] for pair in batch]
        with torch.no_grad():
            wanted = teacher(texts)
        ours = encoder(texts, "text-matching")
        return objectives.matching_loss(ours, wanted) + objectives.anchor_loss(ours, wanted)

    return optimize(encoder.train("text-matching"), step, minutes=minutes, name="text-matching")
