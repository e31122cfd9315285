"""Tiles above the blocks, against a search written out over map addresses."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spacetime_gr import POIIndex
from spacetime_gr.index.ancestors import ancestor_tiles
from tests.spacetime_gr.conftest import make_pois


def chains(index: POIIndex) -> list[list[int]]:
    """Numbers of the tiles above each block, lowest first."""
    above, of_block = ancestor_tiles(index)
    found = []
    for tile in of_block:
        chain = []
        while tile:
            chain.append(int(tile))
            tile = above[tile]
        found.append(chain)
    return found


def parting_tiles(index: POIIndex) -> list[list[str]]:
    """For each block the tiles at or above it, lowest first, that hold several blocks which do not share a child.

    The finest tiles have no children: one that holds too many places is a tile of several blocks.
    """
    lines = []
    for address in index.block_addresses():
        z, x, y = map(int, address.split("/"))
        lines.append([(level, x >> (z - level), y >> (z - level)) for level in range(z, -1, -1)])
    parts: dict[tuple, set] = {}
    for block, line in enumerate(lines):
        for part, tile in pairwise([block, *line]):
            parts.setdefault(tile, set()).add(part)
    return [[tile for tile in line if len(parts[tile]) > 1] for line in lines]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 9), st.sampled_from([0.0001, 0.1, 60.0]))
@example(seed=119, size=32, bound=1, spread=0.0001)  # places too near each other for the finest tiles
def test_tiles_are_those_where_blocks_part(seed: int, size: int, bound: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    pois = pa.table(
        {
            "poi_id": np.arange(size),
            "latitude": np.clip(rng.normal(0, spread, size), -85, 85),
            "longitude": np.clip(rng.normal(0, spread, size), -179, 179),
        }
    )
    index = POIIndex.build(pois, max_pois_per_block=bound)
    expected, found = parting_tiles(index), chains(index)
    names: dict[int, tuple] = {}
    for numbers, tiles in zip(found, expected, strict=True):
        assert len(numbers) == len(tiles)
        for number, tile in zip(numbers, tiles, strict=True):
            assert names.setdefault(number, tile) == tile
    assert len(set(names.values())) == len(names) == len(ancestor_tiles(index)[0]) - 1


def test_added_blocks_share_the_tiles_of_their_origin() -> None:
    index = POIIndex.build(make_pois(), max_pois_per_block=8, spare_blocks=1.0)
    new = pa.table(
        {"poi_id": [f"n{i}" for i in range(40)], "latitude": 40.7 + np.arange(40) * 1e-3, "longitude": [-74.0] * 40}
    )
    grown = index.add(new)
    assert grown.num_blocks > index.num_blocks
    (above, of_block), (above_now, of_block_now) = ancestor_tiles(index), ancestor_tiles(grown)
    assert np.array_equal(above, above_now)
    assert np.array_equal(of_block, of_block_now[: index.num_blocks])
    parents = grown.blocks.parents[index.num_blocks :]
    assert np.array_equal(of_block_now[index.num_blocks :], of_block_now[parents])


def test_a_grid_has_no_tiles() -> None:
    above, of_block = ancestor_tiles(POIIndex.build(make_pois(), scheme="grid", cell_km=2.0))
    assert above.tolist() == [0]
    assert not of_block.any()
