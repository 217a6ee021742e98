"""Stages of the starter's training: done once, resumed, and never of another run's settings."""

from pathlib import Path

import pytest
import torch

from taskvec.core.errors import InputError
from taskvec.integrations.train.starter import SHARES, Run, main


def test_a_finished_stage_is_not_done_again(tmp_path: Path) -> None:
    done: list[float] = []

    def work(minutes: float) -> dict[str, float]:
        done.append(minutes)
        return {"drawn": float(torch.rand(()))}

    first = Run(tmp_path, 10, 3).stage("distil", work)
    torch.rand(7)
    again = Run(tmp_path, 10, 3).stage("distil", work)
    assert again == first
    assert done == [10 * SHARES["distil"]]
    other = Run(tmp_path / "..", 10, 3)
    assert other.stage("separation", work)["drawn"] == first["drawn"], "each stage starts seeded"


@pytest.mark.parametrize(("minutes", "seed"), [(5, 3), (10, 4)])
def test_a_stage_of_another_runs_settings_is_refused(
    tmp_path: Path, minutes: float, seed: int
) -> None:
    Run(tmp_path, 10, 3).stage("distil", lambda _: {})
    with pytest.raises(InputError, match="other minutes or seed"):
        Run(tmp_path, minutes, seed).stage("distil", lambda _: {})


def test_a_folder_that_holds_something_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old").write_text("weights")
    with pytest.raises(SystemExit) as caught:
        main(["--out", str(tmp_path)])
    assert caught.value.code == 2
    assert "is not empty" in capsys.readouterr().err
