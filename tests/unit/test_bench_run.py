"""How the benchmarks run: processes that answer or tell why not, options, tables."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import machine, options, parts, plots, report
from benchmarks.contest import Contest, Row, centred_cosine, hold, loaded, references, times_as_fast
from benchmarks.models import Size, Writer
from benchmarks.peers import OURS, PEERS
from benchmarks.report import Results
from benchmarks.worker import Worker, WorkerError
from benchmarks.workloads import one_task, texts

TINY = Size("tiny", "tiny", layers=1, hidden=32, heads=2, ffn=64)


class Echo:
    """What the tests' worker holds."""

    def __init__(self, refuse: str = "") -> None:
        if refuse:
            raise ValueError(refuse)

    def say(self, text: str) -> str:
        return text

    def die(self) -> None:
        print("out of luck", flush=True)
        os._exit(3)


def echo(tmp_path: Path, *arguments: object) -> Worker:
    target = "tests.unit.test_bench_run:Echo"
    return Worker(target, *arguments, environment=os.environ, log=tmp_path / "log")


def test_a_worker_answers_and_survives_an_error(tmp_path: Path) -> None:
    worker = echo(tmp_path)
    worker.ready()
    with pytest.raises(WorkerError, match=r"AttributeError.*shout"):
        worker.call("shout")
    assert worker.call("say", "still here") == "still here"
    worker.close()


def test_a_worker_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    worker = echo(tmp_path, "no such model")
    with pytest.raises(WorkerError, match="ValueError: no such model"):
        worker.ready()
    worker.close()


def test_a_worker_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    worker = echo(tmp_path)
    worker.ready()
    with pytest.raises(WorkerError, match="out of luck"):
        worker.call("die")
    with pytest.raises(WorkerError, match="the process ended"):
        worker.call("say", "anyone?")
    worker.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "tiny"
    Writer().write(folder, TINY)
    return folder


def contest(**changes: object) -> Contest:
    work = one_task(texts([5, 40, 9, 17, 30, 12, 8, 25])).mixed(5)
    return replace(Contest("A", "a contest", TINY, work, ("float32",), repeats=2), **changes)


def test_contenders_agree_and_are_timed_and_one_that_fails_is_told(
    tiny: Path, tmp_path: Path
) -> None:
    asked = replace(options.parse(["--dtype", "float32"]), out=tmp_path)
    held = contest()
    want = references([held], tiny, asked)[held.key]
    with loaded((OURS, "peft"), tiny, TINY, "float32", asked) as contenders:
        contenders[1].failure = contenders[1].unloaded = "is missing"
        ours, other = hold(held, contenders, want)
    assert ours.cosine > 0.9999
    assert len(ours.seconds) == 2
    assert ours.facts["ceiling"]["flops_per_s"] > 0
    assert (other.failure, other.seconds) == ("is missing", ())


def test_a_contender_with_other_vectors_is_not_compared(tiny: Path, tmp_path: Path) -> None:
    asked = replace(options.parse(["--dtype", "float32"]), out=tmp_path)
    held = contest()
    want = references([held], tiny, asked)[held.key]
    with loaded((OURS,), tiny, TINY, "float32", asked) as contenders:
        [wrong] = hold(held, contenders, want[::-1].copy())
        [right] = hold(held, contenders, want)
    assert wrong.failure.startswith("vectors differ")
    assert not wrong.seconds
    assert right.seconds  # the next contest starts afresh


def test_what_all_vectors_share_counts_for_nothing() -> None:
    rng = np.random.default_rng(0)
    want = rng.standard_normal((8, 64)).astype(np.float32) + 100
    assert centred_cosine(want, want) == pytest.approx(1, abs=1e-5)
    assert centred_cosine(want[::-1], want) < 0.3


def test_a_ratio_is_of_neighbouring_runs() -> None:
    ours = Row(OURS, "float32", seconds=(1.0, 10.0, 1.0))
    theirs = Row("peft", "float32", seconds=(2.0, 20.0, 2.0))
    assert times_as_fast(ours, theirs) == 2


def test_every_part_is_known_and_has_contests_or_a_measurement() -> None:
    asked = options.parse(["--full"])
    found = {held.key.partition("/")[0] for held in parts.contests(asked)}
    assert found | {"service", "memory", "start"} == set(options.PARTS)
    assert {peer for held in parts.contests(asked) for peer in held.peers} <= set(PEERS)


def test_contests_of_one_model_stand_together() -> None:
    names = [held.size.name for held in parts.contests(options.parse(["--full"]))]
    assert [name for i, name in enumerate(names) if names[i - 1] != name] == list(
        dict.fromkeys(names)
    )


@pytest.mark.parametrize(
    "arguments",
    [["--only", "A,Q"], ["--peers", "nobody"], ["--isa", "mmx"], ["--device", "cuda", "--only=E"]],
)
def test_an_option_that_makes_no_sense_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        options.parse(arguments)
    assert "error" in capsys.readouterr().err


def test_a_limit_of_instructions_reaches_the_processes_and_the_dtype(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "flags", lambda: ["amx_bf16", "avx512_bf16"])
    assert options.parse([]).dtype == "bfloat16"
    low = options.parse(["--isa", "avx512_core"])
    assert low.dtype == "float32"
    assert low.environment()["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE"


def results(*rows: Row) -> Results:
    made = Results(machine.describe(), options.parse([]))
    made.contests["A"], made.lengths["A"] = contest(), [10, 20]
    made.rows["A"] = list(rows)
    return made


OURS_ROW = Row(OURS, "float32", "defaults", (1.0, 1.2), 0.99999)


def test_a_failure_stands_in_the_table_and_in_the_json() -> None:
    made = results(OURS_ROW, Row("openvino", "float32", failure="ImportError: no openvino"))
    assert "failed: ImportError: no openvino" in report.markdown(made)
    told = json.loads(json.dumps(report.as_json(made), allow_nan=False))
    ours, other = told["contests"]["A"]["rows"]
    assert ours["median_s"] == pytest.approx(1.1)
    assert (other["failure"], other["cosine"]) == ("ImportError: no openvino", None)


def test_a_report_says_how_many_times_as_fast() -> None:
    made = results(OURS_ROW, Row("peft", "float32", "batch 4", (3.0, 3.6), 0.99999))
    [line] = [line for line in report.markdown(made).splitlines() if "PEFT" in line]
    assert line.endswith("| 3.00 times as fast |")


def test_shares_of_the_ceiling_count_real_tokens_only() -> None:
    flops = TINY.linear_flops(30)
    ceiling = {"flops_per_s": flops * 2 / 1.1, "operator": "linear", "tokens": [512] * 4}
    made = results(replace(OURS_ROW, facts={"ceiling": ceiling}))
    assert "| 50% |" in report.markdown(made)


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert report.table(("a",), [("x|y",)]).splitlines()[-1] == "| x/y |"


def test_a_card_is_held_against_its_own_peak() -> None:
    assert report.card_peak("NVIDIA H100 80GB HBM3") == 989e12
    assert report.card_peak("NVIDIA H100 PCIe") == 756e12
    assert report.card_peak("NVIDIA L40S") == 362e12
    assert report.card_peak("a card of the future") is None


def test_plots_leave_out_what_failed() -> None:
    made = results(OURS_ROW)
    for length in (16, 64):
        key = f"lengths/{length}"
        made.rows[key] = [OURS_ROW, Row("peft", "float32", failure="died")]
        made.lengths[key] = [length] * 4
    lines = plots.points(made, "lengths/")
    assert set(lines) == {OURS}
    assert [x for x, _ in lines[OURS]] == [16, 64]
    assert not any(math.isnan(y) for _, y in lines[OURS])
