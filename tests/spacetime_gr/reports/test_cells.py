"""Rectangles of the maps: nothing is lost however many blocks are drawn together."""

import numpy as np
import pytest

from spacetime_gr import POIIndex
from spacetime_gr.reports.cells import block_cells, central_view, place_cells
from tests.spacetime_gr.conftest import make_pois


@pytest.mark.parametrize("limit", [10_000, 20, 3, 1])
@pytest.mark.parametrize("scheme", ["quadtree", "grid"])
def test_blocks_drawn_together_keep_their_counts(scheme: str, limit: int) -> None:
    index = POIIndex.build(make_pois(), scheme=scheme, max_pois_per_block=4, cell_km=1.0)
    cells = block_cells(index, {"POIs": index.block_sizes}, limit)
    assert len(cells) <= limit
    assert cells.counts["POIs"].sum() == index.num_pois
    assert cells.counts["blocks"].sum() == index.num_blocks
    # Each block's centre lies in the rectangle that stands for it.
    south, west, north, east = cells.bounds[cells.group].T
    latitude, longitude = index.block_centers.T
    assert ((south <= latitude) & (latitude <= north) & (west <= longitude) & (longitude <= east)).all()
    assert len(set(cells.addresses)) == len(cells)


def test_blocks_are_drawn_as_they_are_where_few() -> None:
    index = POIIndex.build(make_pois(), max_pois_per_block=4)
    cells = block_cells(index, {"POIs": index.block_sizes}, limit=10_000)
    assert sorted(cells.addresses) == sorted(set(index.block_addresses()))
    bounds = index.block_bounds()
    np.testing.assert_array_equal(cells.bounds[cells.group], bounds)


@pytest.mark.parametrize("limit", [10_000, 5])
def test_visited_places_on_tiles_of_one_size(limit: int) -> None:
    index = POIIndex.build(make_pois(), max_pois_per_block=8)
    visits = np.arange(index.num_pois, dtype=np.uint32) % 5
    cells = place_cells(index, visits, central_view(index, index.block_sizes), limit)
    assert len(cells) <= limit
    assert cells.counts["visits"].sum() == visits.sum()
    assert cells.counts["places"].sum() == np.count_nonzero(visits)
    assert len({address.split("/")[0] for address in cells.addresses}) == 1
