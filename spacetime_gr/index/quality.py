"""How an index uses its ids: block sizes, vocabulary under training visits, depth, entropy, room to grow."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacetime_gr.index.geometry import corner_distance_km
from spacetime_gr.index.poi_index import POIIndex
from spacetime_gr.index.sorting import chunks

SHARES = (0.5, 0.9, 0.99)
_BINS = 32
_CURVE_POINTS = 200
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Usage:
    """Places and training visits by block, shape (num_blocks,), and by inner id, shape (num_inner,).

    `visits_log_visits`: sum of v log2 v over places with v visits, for the entropy of places.
    """

    block_places: Counts
    block_visits: Counts
    inner_places: Counts
    inner_visits: Counts
    visits_log_visits: float

    @property
    def num_visits(self) -> int:
        """Training visits in all."""
        return int(self.block_visits.sum())


def usage(index: POIIndex) -> Usage:
    """Count places and visits; reads the codes and visits of a memory-mapped index once."""
    block_visits = np.zeros(index.num_blocks, np.int64)
    inner_places, inner_visits = np.zeros((2, index.num_inner), np.int64)
    total = 0.0
    for places in (index.base, index.added):
        for part in chunks(0 if places is None else len(places)):
            assert places is not None
            codes, visits = places.codes[part].astype(np.int64), places.visits[part].astype(np.int64)
            inner = codes & ((1 << index.inner_bits) - 1)
            np.add.at(block_visits, codes >> index.inner_bits, visits)
            np.add.at(inner_visits, inner, visits)
            np.add.at(inner_places, inner, 1)
            total += _sum_n_log_n(visits)
    return Usage(index.block_sizes, block_visits, inner_places, inner_visits, total)


def quality(index: POIIndex, used: Usage | None = None) -> dict[str, Any]:
    """The numbers of the quality report, ready for JSON.

    Args:
        index: a built, loaded or grown index.
        used: `usage(index)` if it is at hand.

    Returns:
        `sizes`: numbers of places, blocks and ids. `blocks`: POIs per block (with histogram), fill (mean share of inner
        ids that name a place), blocks with one POI, km from a cell's middle to its farthest corner. `use`: ids of each
        kind with places and with visits, and the fewest that carry 50, 90 and 99 % of the visits. `depths`: shares of
        blocks, POIs and visits per tile level. `entropy_bits`: of the block, of the inner id given the block, and their
        sum, that of the place, under training visits. `growth`: spare ids, and advice. Shares and entropies of visits
        are None where the index knows no training visits.
    """
    used = used or usage(index)
    sizes = used.block_places
    corner = corner_distance_km(index.block_bounds())
    largest = index.num_inner if index.max_pois_per_block else int(sizes.max())
    return {
        "sizes": {
            "scheme": index.scheme.name,
            **index.scheme.settings(),
            "max_pois_per_block": index.max_pois_per_block,
            "num_pois": index.num_pois,
            "num_retired": len(index.retired),
            "num_visits": used.num_visits,
            "num_blocks": index.num_blocks,
            "block_capacity": index.block_capacity,
            "num_inner": index.num_inner,
        },
        "blocks": {
            "pois": {"mean": float(sizes.mean()), **_quantiles(sizes)},
            "fill": index.num_pois / (index.num_blocks * index.num_inner),
            "single_poi_blocks": int((sizes == 1).sum()),
            "corner_km": _quantiles(corner),
            "histogram": _histogram(sizes, largest, linear=index.max_pois_per_block is not None),
        },
        "use": {
            "block": _use(index.block_capacity, sizes, used.block_visits),
            "inner": _use(index.num_inner, used.inner_places, used.inner_visits),
        },
        "depths": _depths(index, used, corner),
        "entropy_bits": _entropies(used),
        "growth": {
            "spare_blocks_left": index.block_capacity - index.num_blocks,
            "spare_inner_ids": index.num_blocks * index.num_inner - index.num_pois,
            **asdict(index.rebuild_advice()),
        },
    }


def _quantiles(values: NDArray[Any]) -> dict[str, float]:
    """Median, 95 % quantile and maximum (linear interpolation)."""
    return dict(zip(("median", "q95", "max"), np.quantile(values, [0.5, 0.95, 1.0]).tolist(), strict=True))


def _histogram(sizes: Counts, largest: int, linear: bool) -> dict[str, list[int]]:
    """Blocks by POIs: bin i holds sizes `edges[i]` to `edges[i + 1] - 1`; bins equally wide, or doubling (no bound)."""
    if linear:
        edges = np.arange(1, largest + 1 + -(-largest // _BINS), -(-largest // _BINS))
    else:
        edges = 1 << np.arange(largest.bit_length() + 1)
    blocks, _ = np.histogram(sizes, np.append(edges[:-1], edges[-1] - 0.5))
    return {"edges": edges.tolist(), "blocks": blocks.tolist()}


def _use(num_ids: int, places: Counts, visits: Counts) -> dict[str, Any]:
    """Use of one kind of ids; `carry`: the fewest ids with so much of the visits; `curve`: their share by number."""
    falling = np.cumsum(np.sort(visits)[::-1])
    total = int(falling[-1])
    # The first at which the sum reaches the share.
    fewest = {f"{share:.0%}": int(np.searchsorted(falling, share * total)) + 1 for share in SHARES}
    ranks = np.unique(np.geomspace(1, len(visits), min(len(visits), _CURVE_POINTS)).astype(np.int64))
    return {
        "ids": num_ids,
        "with_places": int((places > 0).sum()),
        "with_visits": int((visits > 0).sum()),
        "carry": fewest if total else None,
        "curve": {"ids": ranks.tolist(), "visits": (falling[ranks - 1] / total).tolist()} if total else None,
    }


def _depths(index: POIIndex, used: Usage, corner: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Per tile level that occurs: number of blocks, shares of POIs and visits, median km to the farthest corner."""
    levels = index.blocks.levels.astype(np.int64)
    return [
        {
            "level": level,
            "blocks": int(here.sum()),
            "pois": float(used.block_places[here].sum() / index.num_pois),
            "visits": float(used.block_visits[here].sum() / used.num_visits) if used.num_visits else None,
            "corner_km": float(np.median(corner[here])),
        }
        for level in np.unique(levels).tolist()
        for here in [levels == level]
    ]


def _sum_n_log_n(counts: Counts) -> float:
    """Sum of n log2 n, which is 0 for n = 0."""
    return float((counts * np.log2(np.maximum(counts, 1))).sum())


def _entropies(used: Usage) -> dict[str, dict[str, float]] | None:
    """Bits under training visits, and how many equally likely outcomes they stand for (2^bits).

    A count n of T gives H = log2 T - sum(n log2 n) / T. The pair is one place, so H(inner | block) = H(place) -
    H(block) (chain rule; Cover and Thomas, Elements of Information Theory, section 2.5).
    """
    total = used.num_visits
    if not total:
        return None
    place, block, inner = (
        float(np.log2(total) - weighted / total)
        for weighted in (used.visits_log_visits, _sum_n_log_n(used.block_visits), _sum_n_log_n(used.inner_visits))
    )
    bits = {"place": place, "block": block, "inner_given_block": max(0.0, place - block), "inner": inner}
    return {name: {"bits": value, "effective": 2.0**value} for name, value in bits.items()}


def top_categories(index: POIIndex) -> NDArray[np.int64]:
    """The category that most places of each block have (ties: the first by name), -1 for none; shape (num_blocks,)."""
    num = len(index.category_names)
    counts = [np.empty((2, 0), np.int64)]
    for places in (index.base, index.added):
        for part in chunks(0 if places is None else len(places)):
            assert places is not None
            category = places.category[part].astype(np.int64)
            pair = ((places.codes[part] >> index.inner_bits).astype(np.int64) * num + category)[category >= 0]
            counts.append(np.stack(np.unique(pair, return_counts=True)))
    pairs, place = np.unique(np.concatenate(counts, axis=1)[0], return_inverse=True)
    amounts = np.zeros(len(pairs), np.int64)
    np.add.at(amounts, place, np.concatenate(counts, axis=1)[1])
    top = np.full(index.num_blocks, -1, np.int64)
    # Rising by amount, ties falling by category: the last one written to a block stays.
    order = np.lexsort((-pairs, amounts))
    top[pairs[order] // max(1, num)] = pairs[order] % max(1, num)
    return top
