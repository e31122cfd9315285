import numpy as np
import pytest

from data_pipelines.stream.curriculum import CurriculumSettings, choose_multi_mode
from data_pipelines.stream.settings import as_settings


def test_default_is_multi_mode_throughout() -> None:
    settings = as_settings(CurriculumSettings, None, "curriculum")
    assert settings.share(0) == settings.share(10**12) == 1.0
    assert choose_multi_mode(settings, 0, 16, 3, 1024).all()


@pytest.mark.parametrize(("schedule", "quarter"), [("linear", 0.35), ("cosine", 0.2 + 0.6 * (1 - np.sqrt(0.5)) / 2)])
def test_ramps(schedule: str, quarter: float) -> None:
    settings = CurriculumSettings(schedule, 0.2, 0.8, ramp_start_tokens=100, ramp_end_tokens=500)
    assert [settings.share(tokens) for tokens in (0, 100, 300, 500, 10**9)] == pytest.approx([0.2, 0.2, 0.5, 0.8, 0.8])
    assert settings.share(200) == pytest.approx(quarter)


def test_stages() -> None:
    settings = as_settings(CurriculumSettings, {"schedule": "staged", "stages": [[0, 0.0], [100, 0.5]]}, "curriculum")
    assert [settings.share(tokens) for tokens in (0, 99, 100, 10**6)] == [0.0, 0.0, 0.5, 0.5]


def test_choices_follow_the_schedule_and_depend_on_seed_lane_and_row_only() -> None:
    settings = CurriculumSettings("linear", 0.0, 1.0, ramp_start_tokens=0, ramp_end_tokens=400 * 8 * 64)
    choices = np.stack([choose_multi_mode(settings, 1, 64, row, 8) for row in range(400)])
    expected = (np.arange(400) / 400).reshape(8, 50).mean(axis=1)
    np.testing.assert_allclose(choices.reshape(8, -1).mean(axis=1), expected, atol=0.03)
    assert np.array_equal(choices[17], choose_multi_mode(settings, 1, 64, 17, 8))
    assert not np.array_equal(choices[200], choose_multi_mode(settings, 2, 64, 200, 8))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shedule": "linear"}, "shedule.*did you mean 'schedule'"),
        ({"schedule": "linaer"}, "one of constant, linear"),
        ({"schedule": "linear"}, "ramp_start_tokens < ramp_end_tokens"),
        ({"final_share": 1.5}, "final_share must lie between 0 and 1"),
        ({"schedule": "staged"}, "start at 0 tokens"),
        ({"schedule": "staged", "stages": [[0, 0.1], [0, 0.2]]}, "start at 0 tokens and rise"),
        ({"schedule": "staged", "stages": [[0]]}, "pairs"),
        (3, "must be CurriculumSettings or a mapping"),
    ],
)
def test_wrong_settings_are_named(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_settings(CurriculumSettings, values, "curriculum")  # type: ignore[arg-type]
