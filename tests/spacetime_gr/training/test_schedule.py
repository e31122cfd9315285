import pytest

from spacetime_gr.training.config import TrainSection
from spacetime_gr.training.schedule import learning_rate, progress


def rates(**settings) -> list[float]:
    train = TrainSection(max_steps=100, lr=1.0, **settings)
    return [learning_rate(train, step, progress(train, step, 0, 0)) for step in range(101)]


def test_wsd_warms_up_stays_and_falls_to_the_floor() -> None:
    values = rates(schedule="wsd", warmup_steps=10, decay_share=0.2, min_lr_ratio=0.1)
    assert values[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert values[10:80] == [1.0] * 70
    assert values[80] == pytest.approx(1.0)
    assert values[90] == pytest.approx(0.55)
    assert values[100] == pytest.approx(0.1)


def test_cosine_and_constant() -> None:
    values = rates(schedule="cosine", warmup_steps=0)
    assert values[0] == 1.0
    assert values[50] == pytest.approx(0.5)
    assert values[100] == pytest.approx(0.0)
    assert values == sorted(values, reverse=True)
    assert rates(schedule="constant", warmup_steps=2)[2:] == [1.0] * 99


def test_wsd_without_decay_stays() -> None:
    assert rates(schedule="wsd", warmup_steps=0, decay_share=0.0)[100] == 1.0


def test_the_limit_that_comes_first_counts() -> None:
    train = TrainSection(max_steps=100, max_tokens=1000, max_minutes=10)
    assert progress(train, 10, 500, 0) == 0.5
    assert progress(train, 10, 0, 540) == 0.9
    assert progress(train, 200, 0, 0) == 1.0
