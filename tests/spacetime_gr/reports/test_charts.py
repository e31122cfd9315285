"""Charts are well-formed pictures whose tooltips say what was put in."""

from xml.etree import ElementTree

import numpy as np
import pytest

from spacetime_gr.reports.charts import Axis, Series, bars, heat_map, lines, number, percent


def picture(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html[html.index("<svg") :])


def tips(html: str) -> list[str]:
    return [one.text or "" for one in picture(html).iter("title")]


def test_bars_tell_their_values_and_stand_by_height() -> None:
    chart = bars([Series("", [1, 4, 0])], ["a", "<b>", "c"], Axis("x"), Axis("y"))
    assert tips(chart) == ["a: 1", "<b>: 4", "c: 0"]
    heights = [float(one.get("height", "nan")) for one in picture(chart).iter("rect")]
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.3)
    assert heights[2] == 0


def test_lines_on_logarithmic_axes() -> None:
    chart = lines([Series("", [100, 10, 1], [1, 10, 100])], Axis("rank", log=True), Axis("visits", log=True))
    assert tips(chart) == ["1: 100", "10: 10", "100: 1"]
    dots = [(float(one.get("cx", 0)), float(one.get("cy", 0))) for one in picture(chart).iter("circle")]
    steps = np.diff(np.array(dots), axis=0)
    np.testing.assert_allclose(steps[0], steps[1], atol=0.2)


@pytest.mark.parametrize("values", [[0, 0], [5, 5], [1e-9, 1]])
def test_charts_of_odd_values_are_finite(values: list[float]) -> None:
    for chart in (
        bars([Series("one", values), Series("two", values)], ["a", "b"], Axis("x"), Axis("y", percent)),
        lines([Series("", values, [1, 2])], Axis("x"), Axis("y")),
        lines([Series("", values, [1, 2])], Axis("x", log=True), Axis("y", log=True)),
        lines([Series("", [], [])], Axis("x", log=True), Axis("y", log=True)),
        bars([Series("", [])], [], Axis("x"), Axis("y")),
        heat_map(np.array([values]), ["r"], ["a", "b"], "events", "label"),
    ):
        picture(chart)
        assert "nan" not in chart
        assert "inf" not in chart


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (9999, "9,999"), (34_025, "34.02 k"), (2e6, "2 M"), (1.5e9, "1.5 G"), (0.25, "0.25")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_whiskers_span_the_interval_and_are_told() -> None:
    chart = bars(
        [Series("", [0.5], intervals=[(0.25, 1.0)]), Series("", [0.5], intervals=[None])], ["a"], Axis("x"), Axis("y")
    )
    assert tips(chart) == ["a: 0.5 (0.25 to 1)", "a: 0.5"]
    (whisker,) = [one.get("d", "") for one in picture(chart).iter("path")]
    low, high = (float(end) for end in whisker.split(",")[1].split("V"))
    (bar, _) = picture(chart).iter("rect")
    top, height = float(bar.get("y", "nan")), float(bar.get("height", "nan"))
    assert (low, high) == pytest.approx((top + height / 2, top - height), abs=0.2)


def test_marks_and_labels_of_lines() -> None:
    series = [Series("", [0, 1], [0, 10], labels=["<k>", ""], joined=False)]
    chart = lines(series, Axis("x"), Axis("y"), x_range=(0, 20), marks=[(10, "resumed")])
    assert tips(chart) == ["0: 0 <k>", "10: 1", "resumed"]
    assert not list(picture(chart).iter("polyline"))
    assert "<k>" in [one.text for one in picture(chart).iter("text")]
    dots = [float(one.get("cx", "nan")) for one in picture(chart).iter("circle")]
    (mark,) = [float(one.get("d", "M,")[1:].split(",")[0]) for one in picture(chart).iter("path")]
    assert mark == pytest.approx(dots[1], abs=0.1)
