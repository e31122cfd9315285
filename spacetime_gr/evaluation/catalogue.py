"""What slices and distances need to know of the places: coordinates, categories, and the names of modes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from spacetime_gr.index.geometry import haversine_km

if TYPE_CHECKING:
    from data_pipelines.prepared import PreparedFolder


@dataclass(frozen=True)
class Catalogue:
    """Places in `poi_row` order.

    latitude, longitude: (num_pois,) degrees. category: (num_pois,) int64 index into `categories`, -1 unknown; None
    where the source has none. modes: names of the values of the log's `mode`.
    """

    latitude: np.ndarray
    longitude: np.ndarray
    category: np.ndarray | None = None
    categories: list[str] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)

    @classmethod
    def from_folder(cls, folder: PreparedFolder) -> Catalogue:
        """Read the places of a prepared folder."""
        pois = folder.pois()
        category, names = None, []
        if "category" in pois.column_names:
            encoded = pois["category"].combine_chunks().dictionary_encode()
            names = [str(name) for name in encoded.dictionary.to_pylist()]
            category = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return cls(
            latitude=pois["latitude"].to_numpy(),
            longitude=pois["longitude"].to_numpy(),
            category=category if names else None,
            categories=names,
            modes=folder.modes,
        )

    def distance_km(self, here: np.ndarray, there: np.ndarray) -> np.ndarray:
        """Great-circle distance in km between places, float64; NaN where a place is -1 (shapes broadcast)."""
        km = haversine_km(self.latitude[here], self.longitude[here], self.latitude[there], self.longitude[there])
        return np.where((here < 0) | (there < 0), np.nan, km)
