"""Validates raw events, splits them, and writes them as shards of user sequences with a manifest."""

from data_pipelines.prepare.options import PrepareOptions
from data_pipelines.prepare.run import PrepareResult, prepare_folder

__all__ = ["PrepareOptions", "PrepareResult", "prepare_folder"]
