"""Chooses `max_pois_per_block` for a vocabulary budget, and shows what each bound would cost.

The places are sorted and split once, at the smallest bound that matters. A tile of that one tree is a block for bound m
if it holds at most m places and its parent more; a tile of the deepest level that holds more is cut into
ceil(size / m) blocks. So every larger bound is read off the tree, and its numbers are those of `POIIndex.build`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from math import ceil, isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacetime_gr.index.build import capacity_of, descend, whole_map
from spacetime_gr.index.geometry import corner_distance_km
from spacetime_gr.index.intake import Source, is_quarantine, read_keys
from spacetime_gr.index.poi_index import DEFAULT_SPARE_BLOCKS
from spacetime_gr.index.schemes import Keys, Levels, Quadtree
from spacetime_gr.vocabulary import Vocabulary

DEFAULT_BUDGET = 400_000
# With few inner ids a pair says little more than a flat id: the inner token has next to nothing to learn. Our choice.
DEFAULT_SMALLEST = 32
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Bound:
    """What one `max_pois_per_block` costs.

    `vocabulary` counts all token ids: specials, contexts, block ids with the spare ones (`block_capacity`), inner ids,
    actions. `fill`: mean share of a block's inner ids that name a place. `corner_km`: distance from the middle of a
    block's cell to its farthest corner, in km, over blocks: median, 95 % quantile, largest.
    """

    max_pois_per_block: int
    num_blocks: int
    block_capacity: int
    num_inner: int
    vocabulary: int
    fits: bool
    fill: float
    single_poi_blocks: int
    corner_km: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """The smallest bound that fits the budget, beside others, in rising order."""

    num_pois: int
    num_rejected: int
    vocabulary_budget: int
    num_actions: int
    spare_blocks: float
    max_pois_per_block: int
    bounds: list[Bound]

    @property
    def chosen(self) -> Bound:
        """The row of `max_pois_per_block`."""
        return next(bound for bound in self.bounds if bound.max_pois_per_block == self.max_pois_per_block)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def plan_index(
    pois: Source,
    vocabulary_budget: int = DEFAULT_BUDGET,
    num_actions: int = 1,
    spare_blocks: float = DEFAULT_SPARE_BLOCKS,
    smallest: int = DEFAULT_SMALLEST,
    bounds: Iterable[int] = (),
    bad_rows: str = "error",
    progress: Progress = lambda stage, done, of: None,
) -> Plan:
    """Choose `max_pois_per_block` of a quadtree over places: the smallest bound whose vocabulary fits a budget.

    Among the bounds that fit, the smallest gives most of the vocabulary to geography: the smallest blocks. Our choice.

    Args:
        pois: as for `POIIndex.build`; beside the batch that is read, 8 bytes per place are held.
        vocabulary_budget: most token ids in all.
        num_actions: number of action types.
        spare_blocks: as for `POIIndex.build`.
        smallest: bounds below it are not chosen.
        bounds: what to report beside the choice; default powers of two around it.
        bad_rows: as for `POIIndex.build`. (Swapped coordinates and ids that stand twice are found by `build` only.)
        progress: told a stage, how much of it is done, and of how much.

    Raises:
        ValueError: no bound fits, or a bound or setting is out of range; as for `POIIndex.build`, the table is bad.
    """
    wanted = sorted(set(bounds))
    at_least = {"num_actions": (num_actions, 1), "spare_blocks": (spare_blocks, 0), "smallest": (smallest, 1)}
    for name, (value, least) in (at_least | {"bounds": (min(wanted, default=1), 1)}).items():
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")
    fixed = Vocabulary(0, 0, num_actions).size
    if vocabulary_budget < fixed + 2:
        raise ValueError(
            f"vocabulary_budget is {vocabulary_budget}; expected more than {fixed + 1}: {fixed} ids are specials, "
            "contexts and actions, then come blocks and inner ids"
        )
    keys, num_rejected = read_keys(
        pois, Quadtree(), is_quarantine(bad_rows), lambda done, of: progress("reading", done, of)
    )
    # Bounds below it need over num_pois / bound blocks, which is over the budget already.
    least = ceil(len(keys) * (1.0 + spare_blocks) / (vocabulary_budget - fixed))
    if wanted and wanted[0] < min(least, len(keys)):
        raise ValueError(
            f"bound {wanted[0]}: {len(keys):,} places need {ceil(len(keys) / wanted[0]):,} blocks or more; with "
            f"{vocabulary_budget:,} token ids ask for bounds of {least} or more"
        )
    progress("sorting", 0, 1)
    keys.sort()
    progress("sorting", 1, 1)
    # The square root of the number of places costs little and makes the remedy of a failure exact enough.
    floor = max(1, min([max(least, smallest), isqrt(len(keys)), *wanted]))
    tree = TileTree.grow(keys, floor, lambda level: progress("splitting", level, Quadtree.max_level))
    costs = Costs(tree, vocabulary_budget, fixed, spare_blocks)
    best = costs.smallest_fitting(max(least, smallest))
    if best is None:
        raise ValueError(_nothing_fits(costs, len(keys), smallest))
    shown = sorted({best, *(wanted or _around(best, max(floor, smallest), len(keys)))})
    reported = []
    for bound in shown:
        reported.append(costs.of(bound))
        progress("measuring", len(reported), len(shown))
    return Plan(
        num_pois=len(keys),
        num_rejected=num_rejected,
        vocabulary_budget=vocabulary_budget,
        num_actions=num_actions,
        spare_blocks=spare_blocks,
        max_pois_per_block=best,
        bounds=reported,
    )


def _around(best: int, floor: int, num_pois: int) -> list[int]:
    """Powers of two: one below the choice and five above it, as far as they make a difference."""
    power = 1 << (best.bit_length() - 1)
    near = [power >> 1, *(power << step for step in range(7))]
    return [bound for bound in near if floor <= bound <= max(best, 2 * num_pois)][:7]


def _nothing_fits(costs: "Costs", num_pois: int, smallest: int) -> str:
    steps = np.unique(np.geomspace(max(costs.tree.floor, smallest), max(num_pois, smallest), 200).astype(np.int64))
    total, bound = min((costs.vocabulary(bound), bound) for bound in steps.tolist())
    return (
        f"{num_pois:,} places do not fit a vocabulary of {costs.budget:,} at any max_pois_per_block of {smallest} or "
        f"more; {total:,} token ids suffice (max_pois_per_block={bound}): raise the budget"
        + (f", or keep fewer spare blocks than {costs.spare_blocks:.0%}" if costs.spare_blocks else "")
    )


@dataclass(frozen=True)
class TileTree:
    """All tiles with places whose parent holds over `floor` places: the world first, then level by level.

    `sizes` and `parent_sizes` count places; `keys` is any key of the tile, `levels` its level.
    """

    floor: int
    sizes: NDArray[np.int64]
    parent_sizes: NDArray[np.int64]
    keys: Keys
    levels: Levels

    @classmethod
    def grow(cls, sorted_keys: Keys, floor: int, progress: Callable[[int], None] = lambda level: None) -> "TileTree":
        """The tree over sorted keys of the quadtree, shape (n,)."""
        scheme, found = Quadtree(), []
        for tiles in descend(scheme, sorted_keys, whole_map(scheme, sorted_keys), floor):
            found.append((tiles.ends - tiles.starts, tiles.parent_sizes, sorted_keys[tiles.starts], tiles.levels))
            progress(len(found) - 1)
        progress(scheme.max_level)
        return cls(floor, *(np.concatenate(column) for column in zip(*found, strict=True)))

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Sizes, sizes of parents, and sizes of the tiles of the deepest level, each rising."""
        return np.sort(self.sizes), np.sort(self.parent_sizes), np.sort(self.sizes[self._deepest])

    @cached_property
    def _deepest(self) -> NDArray[np.bool_]:
        return self.levels == Quadtree.max_level

    def num_blocks(self, bound: int) -> int:
        """Blocks at a bound, which falls as the bound rises. Quick: counts in sorted sizes."""
        sizes, parents, deepest = self._sorted
        # A parent holds no less than its tile, so the tiles with size <= bound < parent are those with a larger parent
        # without those that are larger themselves.
        whole = (len(parents) - np.searchsorted(parents, bound, "right")) - (
            len(sizes) - np.searchsorted(sizes, bound, "right")
        )
        cut = deepest[np.searchsorted(deepest, bound, "right") :]
        return int(whole + (-(-cut // bound)).sum())

    def blocks(self, bound: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Tiles that are blocks at a bound, into how many blocks each is cut, and how many blocks hold one place."""
        tiles = np.flatnonzero((self.parent_sizes > bound) & ((self.sizes <= bound) | self._deepest))
        sizes = self.sizes[tiles]
        pieces = -(-sizes // bound)
        last = sizes - (pieces - 1) * bound
        return tiles, pieces, len(self) if bound == 1 else int((last == 1).sum())

    def corner_km(self, tiles: NDArray[np.int64]) -> NDArray[np.float64]:
        """Distance from the middle of each tile to its farthest corner, km."""
        return corner_distance_km(Quadtree().bounds(self.keys[tiles], self.levels[tiles]))

    def __len__(self) -> int:
        """Number of places: the size of the first tile, the world."""
        return int(self.sizes[0])


@dataclass(frozen=True)
class Costs:
    """Vocabulary of each bound under a budget; `fixed` ids are neither blocks nor inner ids."""

    tree: TileTree
    budget: int
    fixed: int
    spare_blocks: float

    def vocabulary(self, bound: int) -> int:
        """All token ids at a bound."""
        return self.fixed + capacity_of(self.tree.num_blocks(bound), self.spare_blocks) + bound

    def smallest_fitting(self, least: int) -> int | None:
        """The smallest bound of `least` or more whose vocabulary is within the budget, None if there is none.

        Block ids fall as the bound rises, so no bound fits before the first at which they fit beside the inner ids of
        `least`; from there the search begins again, until nothing moves.
        """
        largest = self.budget - self.fixed
        while least < largest:
            room = largest - least
            ahead = range(least, largest)
            step = bisect_left(
                ahead, True, key=lambda b: capacity_of(self.tree.num_blocks(b), self.spare_blocks) <= room
            )
            if step == 0:
                return least
            least += step
        return None

    def of(self, bound: int) -> Bound:
        """Everything that is reported of a bound."""
        tiles, pieces, singles = self.tree.blocks(bound)
        num_blocks, vocabulary = int(pieces.sum()), self.vocabulary(bound)
        corner = np.repeat(self.tree.corner_km(tiles), pieces)
        return Bound(
            max_pois_per_block=bound,
            num_blocks=num_blocks,
            block_capacity=capacity_of(num_blocks, self.spare_blocks),
            num_inner=bound,
            vocabulary=vocabulary,
            fits=vocabulary <= self.budget,
            fill=len(self.tree) / (num_blocks * bound),
            single_poi_blocks=singles,
            corner_km=dict(zip(("median", "q95", "max"), np.quantile(corner, [0.5, 0.95, 1.0]).tolist(), strict=True)),
        )
