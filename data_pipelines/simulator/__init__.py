"""A simulated city that knows its own next-POI distribution, and so the best result any model can reach on it."""

from data_pipelines.simulator.settings import CitySettings
from data_pipelines.simulator.simulate import simulate

__all__ = ["CitySettings", "simulate"]
