"""The account of a run's time: nothing is lost or counted twice when sessions are killed, stopped and resumed."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spacetime_gr.training.callbacks.goodput import FILE, Account, Goodput
from spacetime_gr.training.timers import Timers

KEPT = Account(1000.0, 1060.0, step=40, seconds={"start_up": 10.0, "train": 40.0, "data": 4.0, "checkpoint": 6.0})
LAST = Account(1000.0, 1100.0, step=70, seconds={"start_up": 10.0, "train": 70.0, "data": 6.0, "checkpoint": 14.0})


def test_steps_after_the_checkpoint_are_lost_and_the_pause_is_down() -> None:
    now = LAST.resumed(KEPT, started=1150.0)
    assert now.seconds == {
        "start_up": 10.0,
        "train": 40.0,
        "data": 4.0,
        "checkpoint": 14.0,
        "lost": 30.0 + 2.0,
        "down": 50.0,
    }
    assert (now.step, now.lost_steps) == (40, 30)
    assert sum(now.seconds.values()) == now.wall == 150.0
    assert now.goodput == 40.0 / 150.0


def test_without_a_checkpoint_all_work_is_lost() -> None:
    now = LAST.resumed(None, started=1100.0)
    assert now.seconds["lost"] == 76.0
    assert (now.goodput, now.step, now.lost_steps) == (0.0, 0, 70)


def test_losses_of_several_kills_add_up() -> None:
    twice = LAST.resumed(KEPT, started=1150.0).resumed(KEPT, started=1200.0)  # the second died before its first step
    assert (twice.seconds["lost"], twice.lost_steps, twice.seconds["down"]) == (32.0, 30, 100.0)


def test_after_a_clean_stop_nothing_is_lost() -> None:
    now = KEPT.resumed(KEPT, started=1070.0)
    assert (now.seconds["lost"], now.lost_steps, now.seconds["down"]) == (0.0, 0, 10.0)


def test_the_line_names_what_took_time() -> None:
    line = LAST.resumed(KEPT, started=1150.0).summary()
    assert line == (
        "goodput 26.7% of 0:02:30; data 2.7%, checkpoint 9.3%, start-up 6.7%, lost 21.3%, down 33.3%; "
        "30 steps done again"
    )


def session(run: Path, state: dict[str, Any] | None, steps: int, start: int = 0) -> Goodput:
    """A session of `steps` steps of 100 s that is killed after its last line of metrics."""
    trainer: Any = SimpleNamespace(timers=Timers(), progress=SimpleNamespace(step=start), run_dir=run)
    callback = Goodput(is_main=True)
    if state is not None:
        callback.load_state_dict(json.loads(json.dumps(state)))
    callback.on_start(trainer)
    for _ in range(steps):
        trainer.timers.add("train", 100.0)
        trainer.progress.step += 1
        callback.on_step(trainer)
        callback.on_log(trainer, {})
    return callback


@pytest.mark.parametrize("damaged", [False, True])
def test_a_killed_session_is_read_from_its_file(tmp_path: Path, damaged: bool) -> None:
    state = session(tmp_path, None, steps=2).state_dict()
    session(tmp_path, state, steps=3, start=2)
    if damaged:
        (tmp_path / FILE).write_text('{"first_start": 1')
    metrics = session(tmp_path, state, steps=1, start=2).account().metrics()
    assert metrics["time/train"] == pytest.approx(300.0)
    # Without the file the steps after the checkpoint are not known; the run goes on all the same.
    assert metrics["time/lost"] == pytest.approx(0.0 if damaged else 300.0)
    assert metrics["time/lost_steps"] == (0 if damaged else 3)


def test_a_start_that_seems_to_lie_before_the_kill_counts_no_time_twice(tmp_path: Path) -> None:
    first = session(tmp_path, None, steps=0)
    killed = first.account()
    assert killed.now > first.started
    metrics = session(tmp_path, None, steps=0).account().metrics()  # the same process, so the same start
    assert metrics["time/down"] == 0
    assert metrics["time/other"] >= -1e-6
