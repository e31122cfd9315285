"""From a prepared folder to packed token rows: deterministic, resumable, the same on any number of ranks."""

from data_pipelines.stream.cleaning import CleaningSettings
from data_pipelines.stream.curriculum import CurriculumSettings
from data_pipelines.stream.token_stream import TokenStream

__all__ = ["CleaningSettings", "CurriculumSettings", "TokenStream"]
