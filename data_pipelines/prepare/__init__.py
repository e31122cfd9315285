"""Validates raw events, splits them, and writes them as shards of user sequences with a manifest."""

from data_pipelines.prepare.options import PrepareOptions
from data_pipelines.prepare.run import PrepareResult, plan_folder, prepare_folder

__all__ = ["PrepareOptions", "PrepareResult", "plan_folder", "prepare_folder"]
