"""The statistics of the quality report, against values computed by hand or the slow way."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from spacetime_gr import POIIndex
from spacetime_gr.index.geometry import areas_km2
from spacetime_gr.index.quality import quality, top_categories, usage
from tests.spacetime_gr.conftest import make_pois


def small(visits: list[int] | None = None) -> POIIndex:
    """Two blocks far apart: one of two places, one of one (bound 2)."""
    columns: dict[str, Any] = {
        "poi_id": ["a", "b", "c"],
        "latitude": [10.0, 10.0, -40.0],
        "longitude": [20.0, 20.0, -60.0],
        "category": ["bar", "bar", "zoo"],
    }
    return POIIndex.build(
        pa.table(columns if visits is None else columns | {"train_visits": visits}), max_pois_per_block=2
    )


def test_by_hand() -> None:
    numbers = quality(small([2, 1, 1]))
    assert numbers["sizes"] == {
        "scheme": "quadtree",
        "max_pois_per_block": 2,
        "num_pois": 3,
        "num_retired": 0,
        "num_visits": 4,
        "num_blocks": 2,
        "block_capacity": 3,
        "num_inner": 2,
    }
    blocks = numbers["blocks"]
    assert blocks["pois"] == {"mean": 1.5, "median": 1.5, "q95": pytest.approx(1.95), "max": 2.0}
    assert blocks["fill"] == 3 / 4
    assert blocks["single_poi_blocks"] == 1
    assert blocks["histogram"] == {"edges": [1, 2, 3], "blocks": [1, 1]}
    # Visits 3 and 1 by block, 3 and 1 by inner id (a and c hold inner id 0).
    for kind, ids in (("block", 3), ("inner", 2)):
        assert numbers["use"][kind] == {
            "ids": ids,
            "with_places": 2,
            "with_visits": 2,
            "carry": {"50%": 1, "90%": 2, "99%": 2},
            "curve": {"ids": [1, 2], "visits": [0.75, 1.0]},
        }
    (depth,) = numbers["depths"]  # both in the tiles of level 1: the first split parts them
    assert (depth["level"], depth["blocks"], depth["pois"], depth["visits"]) == (1, 2, 1.0, 1.0)
    entropy = numbers["entropy_bits"]
    # Places 1/2, 1/4, 1/4; blocks 3/4, 1/4.
    assert entropy["place"]["bits"] == pytest.approx(1.5)
    assert entropy["block"]["bits"] == pytest.approx(2 - 0.75 * np.log2(3))
    assert entropy["inner_given_block"]["bits"] == pytest.approx(0.75 * (np.log2(3) - 2 / 3))
    assert entropy["place"]["effective"] == pytest.approx(2**1.5)
    growth = numbers["growth"]
    assert (growth["spare_blocks_left"], growth["spare_inner_ids"], growth["reasons"]) == (1, 1, [])
    json.dumps(numbers, allow_nan=False)


def test_without_training_visits() -> None:
    numbers = quality(small())
    assert numbers["entropy_bits"] is None
    assert numbers["use"]["block"]["carry"] is None
    assert numbers["use"]["block"]["with_visits"] == 0
    assert numbers["depths"][0]["visits"] is None


@pytest.mark.parametrize(("scheme", "bound"), [("quadtree", 8), ("grid", None), ("grid", 4)])
def test_the_slow_way_gives_the_same(scheme: str, bound: int | None) -> None:
    """Also on a grown index with retired places."""
    index = POIIndex.build(make_pois(), scheme=scheme, max_pois_per_block=bound, spare_blocks=1.0)
    later = make_pois(seed=1, num_pois=60)
    if bound is not None:  # without a bound inner ids are as many as the largest block holds, and it cannot grow
        index = index.add(later.set_column(0, "poi_id", pa.array([f"n{i}" for i in range(60)])))
        index = index.retire(["n0", "n7"])
    rows = np.arange(index.num_pois)
    block, inner = index.encode(rows, rows=True)
    visits = index.visits(rows)
    used, numbers = usage(index), quality(index)
    np.testing.assert_array_equal(used.block_places, np.bincount(block, minlength=index.num_blocks))
    np.testing.assert_array_equal(used.block_visits, np.bincount(block, visits, index.num_blocks))
    np.testing.assert_array_equal(used.inner_places, np.bincount(inner, minlength=index.num_inner))
    np.testing.assert_array_equal(used.inner_visits, np.bincount(inner, visits, index.num_inner))

    def entropy(counts: np.ndarray) -> float:
        share = counts[counts > 0] / counts.sum()
        return float(-(share * np.log2(share)).sum())

    given = sum(visits[block == b].sum() / visits.sum() * entropy(visits[block == b]) for b in np.unique(block))
    assert numbers["entropy_bits"]["block"]["bits"] == pytest.approx(entropy(used.block_visits))
    assert numbers["entropy_bits"]["inner"]["bits"] == pytest.approx(entropy(used.inner_visits))
    assert numbers["entropy_bits"]["inner_given_block"]["bits"] == pytest.approx(given)
    for kind, counts in (("block", used.block_visits), ("inner", used.inner_visits)):
        falling = sorted(counts.tolist(), reverse=True)
        for share, fewest in numbers["use"][kind]["carry"].items():
            needed = float(share.rstrip("%")) / 100 * sum(falling)
            assert sum(falling[: fewest - 1]) < needed <= sum(falling[:fewest])
    assert sum(numbers["blocks"]["histogram"]["blocks"]) == index.num_blocks
    for name in ("pois", "visits"):
        assert sum(row[name] for row in numbers["depths"]) == pytest.approx(1.0)

    category = index.categories(rows)
    for b, top in enumerate(top_categories(index)):
        counts = np.bincount(category[(block == b) & (category >= 0)], minlength=len(index.category_names))
        assert top == (counts.argmax() if counts.any() else -1)


def test_histogram_bins() -> None:
    """A bound: bins of equal width up to it. No bound: widths double up to the largest block."""
    bounded = quality(POIIndex.build(make_pois(), max_pois_per_block=100))["blocks"]["histogram"]
    assert bounded["edges"] == list(range(1, 102, 4)) + ([] if (101 - 1) % 4 == 0 else [105])
    index = POIIndex.build(make_pois(), scheme="grid")
    doubling = quality(index)["blocks"]["histogram"]
    assert doubling["edges"] == [1 << i for i in range(int(index.block_sizes.max()).bit_length() + 1)]
    by_hand = [
        int(((index.block_sizes >= low) & (index.block_sizes < high)).sum())
        for low, high in zip(doubling["edges"][:-1], doubling["edges"][1:], strict=True)
    ]
    assert doubling["blocks"] == by_hand


def test_without_categories() -> None:
    index = POIIndex.build(make_pois().drop_columns("category"), max_pois_per_block=8)
    assert (top_categories(index) == -1).all()


def test_areas_of_the_sphere() -> None:
    """The whole sphere is 4 pi R²; a small box near the equator is about its sides' product."""
    areas = areas_km2(np.array([[-90.0, -180.0, 90.0, 180.0], [0.0, 0.0, 0.01, 0.01]]))
    np.testing.assert_allclose(areas, [4 * np.pi * 6371.0088**2, 1.11195**2], rtol=1e-5)


def test_repr_is_one_line_without_arrays() -> None:
    assert repr(small()) == "POIIndex(3 places, 2 quadtree blocks of at most 2, folder=None)"
