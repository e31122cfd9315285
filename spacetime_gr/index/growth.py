"""Places that open after an index was built: they get ids beside the old ones, none of which moves."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spacetime_gr.index.build import Roots, centers_of, split
from spacetime_gr.index.columns import Blocks, Places
from spacetime_gr.index.ids import IdTable, id_order
from spacetime_gr.index.intake import Intake, Source, read_places
from spacetime_gr.index.schemes import Keys, Levels, positions
from spacetime_gr.index.search import BlockSearch

if TYPE_CHECKING:
    from spacetime_gr.index.poi_index import POIIndex


def add(index: "POIIndex", pois: Source, quarantine: bool) -> "POIIndex":
    """See `POIIndex.add`."""
    # A few new places say nothing about where places are many: swapped coordinates are not looked for.
    new = read_places(pois, index.scheme, quarantine, index.category_names, check_swapped=False)
    table = index.base.ids
    own = table.in_my_kind(new.ids).cast(table.ids.type)
    if own.null_count:
        strange = _shown(new, own.is_null().to_numpy(zero_copy_only=False))
        raise ValueError(f"ids of the index are integers, these are not: (row, poi_id) {strange}; give integers")
    new.ids = own
    known = index.rows(new.ids) >= 0
    if known.any():
        raise ValueError(
            f"{known.sum()} places are in the index already, first (row, poi_id) {_shown(new, known)}; add new places "
            "only"
        )
    search = BlockSearch(index)
    by_id = id_order(new.ids)
    home = search.of_keys(new.keys)
    # By block, in it by falling visits, ties by id: the order in which spare inner ids are given out.
    order = by_id[np.lexsort((-new.visits[by_id].astype(np.int64), home[by_id]))]
    turn = _number_in_group(home[order])
    room = np.where(home[order] >= 0, index.num_inner - index.block_sizes[np.maximum(home[order], 0)], 0)
    fits = turn < room
    block, inner = np.full(len(order), -1, np.int64), np.full(len(order), -1, np.int64)
    settled = order[fits]
    block[settled] = home[settled]
    inner[settled] = index.block_sizes[home[settled]] + turn[fits]

    left = order[~fits]
    blocks = index.blocks
    if len(left):
        rank = np.empty(len(by_id), np.int64)
        rank[by_id] = np.arange(len(by_id))
        left = left[np.lexsort((rank[left], new.keys[left]))]
        new_blocks, which = _new_blocks(index, search, new, left, home[left])
        blocks = index.blocks.followed_by(new_blocks)
        inside = np.lexsort((rank[left], -new.visits[left].astype(np.int64), which))
        block[left[inside]] = index.num_blocks + which[inside]
        inner[left[inside]] = _number_in_group(which[inside])

    kind = index.base.codes.dtype.type
    fresh = Places(
        ids=IdTable.build(new.ids, new.table_rows),
        codes=((block << index.inner_bits) | inner).astype(kind),
        latitude=new.latitude,
        longitude=new.longitude,
        category=new.category,
        position=positions(new.keys, index.scheme.span_bits(blocks.levels[block])),
        visits=new.visits,
        visitors=new.visitors,
    )
    return replace(
        index,
        category_names=new.category_names,
        blocks=blocks,
        added=fresh if index.added is None else index.added.followed_by(fresh),
        rejected=new.rejected,
    )


def _shown(new: Intake, chosen: NDArray[np.bool_]) -> list[tuple[int, Any]]:
    """Row in the table and id of the first of some places."""
    rows, first = new.table_rows(), np.flatnonzero(chosen)[:5].tolist()
    return [(int(rows[place]), new.ids[place].as_py()) for place in first]


def _number_in_group(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of each element among those of its group, where equal groups stand together."""
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))[: len(groups)]
    sizes = np.diff(np.append(starts, len(groups)))
    return np.arange(len(groups)) - np.repeat(starts, sizes)


def _new_blocks(
    index: "POIIndex", search: BlockSearch, new: Intake, left: NDArray[np.int64], home: NDArray[np.int64]
) -> tuple[Blocks, NDArray[np.int64]]:
    """Blocks for places that found no room, and the number among them of each place's block.

    Args:
        left: those places in the order of their keys.
        home: the full block that each lies in, -1 for none.
    """
    keys = new.keys[left]
    inside = np.where(home >= 0, index.blocks.levels[np.maximum(home, 0)] + np.int8(1), np.int8(0))
    levels = np.minimum(np.maximum(inside, _empty_levels(index, keys)), index.scheme.max_level).astype(np.int8)
    cells = keys >> index.scheme.span_bits(levels)
    starts = np.flatnonzero(np.append(True, (cells[1:] != cells[:-1]) | (levels[1:] != levels[:-1])))
    roots = Roots(starts, np.append(starts[1:], len(keys)), levels[starts])
    made = split(index.scheme, keys, roots, index.num_inner)
    num_free = index.block_capacity - index.num_blocks
    if len(made.levels) > num_free:
        raise ValueError(
            f"the new places need {len(made.levels)} new blocks, the index has {num_free} spare ones left of "
            f"{index.block_capacity}; rebuild it (POIIndex.build, spare_blocks=...) and train or fine-tune anew"
        )
    sizes = np.diff(made.starts)
    which = np.repeat(np.arange(len(sizes)), sizes)
    centers = centers_of(which, len(sizes), new.latitude[left], new.longitude[left])
    first = home[made.starts[:-1]]
    parents = np.where(first >= 0, first, search.nearest(*centers.T)).astype(np.int32)
    return Blocks(made.keys, made.levels, centers, parents), which


def _empty_levels(index: "POIIndex", keys: Keys) -> Levels:
    """Level of the largest cell that holds each key and no block of the index, but those that hold the key itself.

    A tile is such a cell if the nearest blocks before and after the key lie outside it: if it is deeper than the
    longest prefix that the key shares with the last key of the one and the first key of the other.
    """
    if index.scheme.max_level == 0:
        return np.zeros(len(keys), np.int8)
    spans = index.scheme.span_bits(index.blocks.levels)
    # Of blocks that hold the key the first key is not after it, the last not before it.
    first, last = np.sort(index.blocks.keys), np.sort(index.blocks.keys | ((np.uint64(1) << spans) - np.uint64(1)))
    after, before = np.searchsorted(first, keys, side="right"), np.searchsorted(last, keys) - 1
    apart = np.full((2, len(keys)), ~np.uint64(0))
    apart[0] = np.where(before >= 0, keys ^ last[np.maximum(before, 0)], apart[0])
    apart[1] = np.where(after < len(first), keys ^ first[np.minimum(after, len(first) - 1)], apart[1])
    # Bits of the difference, through the exponent of a float, exact below 53 bits.
    _, bits = np.frexp(np.minimum(apart.min(axis=0), np.uint64((1 << index.scheme.key_bits) - 1)).astype(np.float64))
    shared = (index.scheme.key_bits - bits) // 2
    return np.minimum(shared + 1, index.scheme.max_level).astype(np.int8)


@dataclass(frozen=True)
class Advice:
    """Drift of a grown index.

    `added_share`, `retired_share`: of all places; `child_share`: places in blocks that were added; `spare_blocks_used`:
    of the spare block ids; `reasons`: why a rebuild would pay, empty if it would not.
    """

    added_share: float
    retired_share: float
    child_share: float
    spare_blocks_used: float
    reasons: list[str]

    @property
    def rebuild(self) -> bool:
        """Whether a rebuild would pay."""
        return bool(self.reasons)


# Where a rebuild (which moves ids, so a model has to be trained anew) begins to pay; our choice.
_LIMITS = {"added_share": 0.2, "retired_share": 0.2, "child_share": 0.1, "spare_blocks_used": 0.8}


def advice(index: "POIIndex") -> Advice:
    """See `POIIndex.rebuild_advice`."""
    num_base = len(index.block_starts) - 1
    num_spare = index.block_capacity - num_base
    shares = {
        "added_share": (index.num_pois - len(index.base)) / index.num_pois,
        "retired_share": len(index.retired) / index.num_pois,
        "child_share": float(index.block_sizes[num_base:].sum()) / index.num_pois,
        "spare_blocks_used": (index.num_blocks - num_base) / num_spare if num_spare else 0.0,
    }
    reasons = [
        f"{name} is {shares[name]:.1%}, above {limit:.0%}" for name, limit in _LIMITS.items() if shares[name] > limit
    ]
    return Advice(**shares, reasons=reasons)
