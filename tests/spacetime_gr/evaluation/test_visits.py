import numpy as np

from spacetime_gr.evaluation.visits import NEVER, LastVisits, is_new
from tests.spacetime_gr.evaluation.logs import DAY, log_of, random_log


def test_last_visits_by_hand() -> None:
    log = log_of([(0, 2, 1.0, "train"), (0, 2, 4.0, "train"), (0, 5, 6.0, "test"), (1, 2, 5.0, "train")])
    last = LastVisits(log)

    def days(user: int, place: int, when: float) -> float:
        age = int(last.age(np.array(user), np.array(place), np.array(int(when * DAY))))
        return age if age == NEVER else age / DAY

    assert days(0, 2, 6.0) == 2.0
    assert days(0, 2, 4.0) == 3.0  # strictly before: the visit of that second does not count
    assert days(0, 2, 1.0) == NEVER
    assert days(0, 2, 99.0) == 95.0
    assert days(0, 2, -7.0) == NEVER
    assert days(1, 2, 6.0) == 1.0
    assert days(1, 5, 6.0) == NEVER
    assert days(0, 3, 6.0) == NEVER


def test_last_visits_equal_a_search_through_the_log() -> None:
    log = random_log(seed=3)
    rng = np.random.default_rng(1)
    user, place = rng.integers(0, log.num_users, 300), rng.integers(0, log.num_pois, 300)
    when = rng.choice(log.timestamp, 300) + rng.integers(-1, 2, 300)
    found = LastVisits(log).age(user, place, when)
    for i in range(300):
        times = log.timestamp[(log.user == user[i]) & (log.poi_row == place[i]) & (log.timestamp < when[i])]
        assert found[i] == (when[i] - times.max() if len(times) else NEVER)
    assert (found == NEVER).any()
    assert (found != NEVER).any()


def test_new_is_no_visit_within_the_days() -> None:
    ages = np.array([NEVER, 0, 5 * DAY, 5 * DAY + 1])
    assert is_new(ages, 5).tolist() == [True, False, False, True]
