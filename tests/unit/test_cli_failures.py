"""Every failure is one sentence and the right exit code."""

import signal
from collections.abc import Callable
from typing import NoReturn

import pytest

from taskvec.core.errors import CheckpointError, StoreError, SyncError, TaskError
from taskvec.integrations.cli.failures import UsageError, guarded, one_line


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def action() -> NoReturn:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UsageError("what?"), 2, "what?"),
        (TaskError("unknown task 'x'"), 2, "unknown task 'x'"),
        (CheckpointError("config.json:\nis missing"), 2, "config.json: is missing"),
        (StoreError("no index"), 2, "no index"),
        (SyncError("behind"), 1, "behind"),
        (FileNotFoundError(2, "No such file or directory", "x.txt"), 2, "x.txt: no such file"),
        (OSError("odd"), 2, "odd"),
        (KeyError("fault"), 1, "KeyError: 'fault' (set TASKVEC_DEBUG=1"),
        (KeyboardInterrupt(), 130, "stopped"),
        (KeyboardInterrupt("stopped; go on"), 130, "stopped; go on"),
    ],
)
def test_a_failure_is_one_sentence(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(raising(error)) == code
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"taskvec: {words}")
    assert err.count("\n") == 1


def test_a_traceback_is_there_for_who_wants_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKVEC_DEBUG", "1")
    guarded(raising(KeyError("fault")))
    assert "Traceback" in capsys.readouterr().err


def test_a_printed_line_holds_no_control_characters() -> None:
    assert one_line("a\x1b[31mb\n c\u202e\ud800") == "a[31mb c"


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_told_end_cleans_up_and_gives_the_handlers_back(
    name: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    number = getattr(signal, name)
    before, cleaned = signal.getsignal(number), []

    def action() -> int:
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(name)
        return 0

    assert guarded(action) == code
    assert cleaned == [name]
    assert signal.getsignal(number) == before
    assert capsys.readouterr().err == "taskvec: ended by a signal\n"


@pytest.mark.parametrize(("given", "code"), [("out of luck", 1), (4, 4), (None, 0)])
def test_a_librarys_exit_keeps_its_code_and_text(
    given: object, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def action() -> int:
        raise SystemExit(given)

    assert guarded(action) == code
    assert ("out of luck" in capsys.readouterr().err) == (given == "out of luck")
