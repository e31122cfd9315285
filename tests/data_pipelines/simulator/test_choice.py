"""The distribution that the simulator states is the one it draws from."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.simulator import people as people_module
from data_pipelines.simulator.categories import CATEGORIES, OFFICE, opening_hours, routine
from data_pipelines.simulator.choice import Mixture, Requests, draw, mixture, probabilities
from data_pipelines.simulator.city import City, build_city
from data_pipelines.simulator.people import Calendar, People, draw_calendar, draw_people, events_per_user
from data_pipelines.simulator.settings import IN_TRIP, LOCAL, PRE_TRIP, CitySettings
from data_pipelines.simulator.truth import CUTOFFS, Tally, measure, summary, true_distributions
from data_pipelines.simulator.walk import Walk, walk

SETTINGS = CitySettings(num_users=150, num_pois=200, num_events=15_000, seed=3)
World = tuple[City, People, Calendar, Walk]


@pytest.fixture(scope="module")
def world() -> World:
    city, counts = build_city(SETTINGS), events_per_user(SETTINGS)
    people = draw_people(SETTINGS, city, 0, len(counts))
    calendar = draw_calendar(SETTINGS, 0, counts)
    return city, people, calendar, walk(SETTINGS, city, people, calendar, 0)


def request(world: World, mode: int, hour: int, past: list[int], **changes: np.ndarray) -> Requests:
    _, people, _, _ = world
    one = Requests(
        hour=np.array([hour]),
        mode=np.array([mode]),
        current=people.home[:1],
        home=people.home[:1],
        work=people.work[:1],
        hotel=people.hotel[:1],
        taste=people.taste[:1],
        past=np.array([past], dtype=np.int64).reshape(1, -1),
        past_away=np.full((1, len(past)), mode != LOCAL),
        num_known=np.array([len(set(past))]),
    )
    return dataclasses.replace(one, **changes)


def test_every_distribution_sums_to_one_and_is_nowhere_negative(world: World) -> None:
    city, people, calendar, events = world
    wanted = np.arange(0, 15_000, 7)
    for event, p, _ in true_distributions(SETTINGS, city, people, calendar, events, wanted):
        np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-12)
        assert (p >= 0).all()
        rows = np.arange(len(event))
        assert (p[rows, events.current[event]] == 0).all()
        assert (p[rows, events.poi[event]] > 0).all()


def test_batches_do_not_change_the_distributions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    city, people, calendar, events = world
    wanted = np.arange(0, 15_000, 501)

    def all_rows() -> np.ndarray:
        found = true_distributions(SETTINGS, city, people, calendar, events, wanted)
        return np.concatenate([p for _, p, _ in found])

    whole = all_rows()
    monkeypatch.setattr("data_pipelines.simulator.truth._BATCH_BYTES", 8 * 200 * 3)
    np.testing.assert_allclose(all_rows(), whole, rtol=1e-12)


@pytest.mark.parametrize(
    ("mode", "hour", "past"),
    [
        (LOCAL, 12, []),
        (LOCAL, 19, [3, 50, 50, 120, 7, 50]),
        (LOCAL, 24 * 5 + 15, [3, 50, 50, 120, 7, 50]),
        (LOCAL, 3, [3, 50, 11]),
        (PRE_TRIP, 20, [80, 81]),
        (IN_TRIP, 24 * 6 + 12, [80, 81, 80, 150]),
    ],
)
def test_draws_follow_the_stated_distribution(world: World, mode: int, hour: int, past: list[int]) -> None:
    city, num_draws = world[0], 100_000
    one = request(world, mode, hour, past)
    p = probabilities(city, mixture(SETTINGS, city, one))[0]
    many = Requests(
        **{f.name: np.repeat(getattr(one, f.name), num_draws, axis=0) for f in dataclasses.fields(Requests)}
    )
    drawn = draw(city, mixture(SETTINGS, city, many), np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=city.num_pois)
    assert (counts[p == 0] == 0).all()
    often = p * num_draws > 5
    chi2 = ((counts - p * num_draws)[often] ** 2 / (p * num_draws)[often]).sum()
    freedom = often.sum()
    assert chi2 < freedom + 4 * (2 * freedom) ** 0.5


def test_events_are_as_probable_as_stated(world: World) -> None:
    """Over all events, hit rates of the true ranking equal their expectation within sampling error."""
    city, people, calendar, events = world
    tally = Tally()
    everything = np.ones(city.num_pois, dtype=bool)
    for event, p, _ in true_distributions(SETTINGS, city, people, calendar, events, np.arange(15_000)):
        measure(tally, p, events.poi[event], everything)
    result = summary(tally)
    for k in CUTOFFS:
        stated = float(result[f"hr@{k}"])  # type: ignore[arg-type]
        error = (stated * (1 - stated) / 15_000) ** 0.5
        assert result["realised"][f"hr@{k}"] == pytest.approx(stated, abs=4 * error)  # type: ignore[index]
    surprise = -np.log(tally.column("p_target")) - tally.column("entropy")
    assert abs(surprise.mean()) < 4 * surprise.std() / 15_000**0.5


def test_measure_conditions_on_the_candidates() -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.5, 0.25, 0.25]])
    tally = Tally()
    measure(tally, p, np.array([2, 0]), np.array([False, True, True]))
    assert tally.column("rank").tolist() == [2.0], "an event whose target is no candidate is left out"
    assert tally.column("p_target")[0] == pytest.approx(0.4)
    assert tally.column("top1")[0] == pytest.approx(0.6)
    assert tally.column("reciprocal")[0] == pytest.approx(0.6 + 0.4 / 2)
    assert tally.column("entropy")[0] == pytest.approx(-(0.6 * np.log(0.6) + 0.4 * np.log(0.4)))
    measure(tally, p, np.array([0, 1]), np.ones(3, dtype=bool))
    assert tally.column("rank").tolist() == [2.0, 1.0, 2.5], "ties stand at their expectation"


def test_mixture_by_hand(world: World) -> None:
    """One request worked out from the formulas, place by place."""
    city = world[0]
    hour, past = 19, [3, 50, 50, 120]
    one = request(world, LOCAL, hour, past)
    home, work = int(one.home[0]), int(one.work[0])
    wish = city.demand[LOCAL, city.category, hour]
    apart = np.linalg.norm(city.xy - city.xy[home], axis=1)
    away = np.linalg.norm(city.centres[city.district] - city.xy[home], axis=1)
    back = np.bincount(past, minlength=city.num_pois) * wish * np.exp(-apart / SETTINGS.return_decay_km)
    new = city.popularity * wish * one.taste[0, city.category] * np.exp(-away / SETTINGS.decay_km)
    back[home] = new[home] = 0
    explore = SETTINGS.explore_local * 3**-SETTINGS.explore_gamma if back.sum() else 1.0
    go_work = routine()[1][hour] if work >= 0 else 0.0  # the person is at home, so does not go home
    expected = (1 - go_work) * explore * new / new.sum()
    if back.sum():
        expected += (1 - go_work) * (1 - explore) * back / back.sum()
    expected[work] += go_work
    np.testing.assert_allclose(probabilities(city, mixture(SETTINGS, city, one))[0], expected, atol=1e-14)


def test_memory_of_trips_and_of_everyday_life_are_apart(world: World) -> None:
    city = world[0]
    food = np.flatnonzero(city.category == [c.name for c in CATEGORIES].index("restaurant"))[:2].tolist()
    same = mixture(SETTINGS, city, request(world, LOCAL, 19, food))
    other = mixture(SETTINGS, city, request(world, LOCAL, 19, food, past_away=np.ones((1, 2), dtype=bool)))
    assert same.share_return[0] > 0
    assert other.share_return[0] == 0


def test_draw_in_cell_never_returns_the_avoided_place() -> None:
    city = build_city(CitySettings(num_pois=60))
    size = np.diff(city.cell_start)
    place = np.flatnonzero(size[city.district * len(CATEGORIES) + city.category] > 1)
    for u in (0.0, 0.3, 0.5, 0.9, np.nextafter(1.0, 0.0)):
        drawn = city.draw_in_cell(city.district[place], city.category[place], np.full(len(place), u), place)
        assert (drawn != place).all()
        assert (city.district[drawn] == city.district[place]).all()
        assert (city.category[drawn] == city.category[place]).all()


def test_routine_leaves_room_and_keeps_office_hours() -> None:
    home, work = routine()
    assert (home + work < 0.95).all()
    assert (work[~opening_hours()[OFFICE]] == 0).all()


def test_first_chunk_does_not_depend_on_how_many_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_module, "USERS_PER_CHUNK", 16)
    few, many = (events_per_user(CitySettings(num_users=n, num_events=50 * n)) for n in (16, 64))
    assert (few.sum(), many.sum()) == (800, 3_200)
    assert np.corrcoef(few, many[:16])[0, 1] > 0.99


def test_truth_rebuilds_the_very_distributions_the_walk_drew_from(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    city, people, calendar, events = world
    during: list[np.ndarray] = []

    def spy(city: City, mix: Mixture, rng: np.random.Generator) -> np.ndarray:
        during.append(probabilities(city, mix))
        return draw(city, mix, rng)

    monkeypatch.setattr("data_pipelines.simulator.walk.draw", spy)
    np.testing.assert_array_equal(walk(SETTINGS, city, people, calendar, 0).poi, events.poi)
    counts = np.diff(calendar.offsets)
    first = calendar.offsets[:-1][np.argsort(-counts, kind="stable")]
    order = np.concatenate([first[: len(p)] + k for k, p in enumerate(during)])
    afterwards = np.empty((15_000, city.num_pois))
    for event, p, _ in true_distributions(SETTINGS, city, people, calendar, events, np.arange(15_000)):
        afterwards[event] = p
    np.testing.assert_allclose(afterwards[order], np.concatenate(during), rtol=1e-9, atol=1e-15)
