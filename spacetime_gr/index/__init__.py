"""The hierarchical POI index: every place is a geographic block and an inner id inside it."""

from spacetime_gr.index.poi_index import POIIndex

__all__ = ["POIIndex"]
