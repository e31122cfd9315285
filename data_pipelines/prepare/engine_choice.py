"""The choice of an engine; imports none before it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.prepare.java import require_java, require_pyspark

if TYPE_CHECKING:
    from data_pipelines.prepare.engine import Engine

ENGINES = ("duckdb", "spark")


def check_engine(name: str, options: Mapping[str, str]) -> None:
    """Raises ValueError if the engine is unknown, does not take these options, or cannot be started here."""
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}: expected one of {', '.join(ENGINES)}")
    if name == "spark":
        require_pyspark()
        require_java()
    elif options:
        raise ValueError(
            f"the engine duckdb takes no --engine-option (got {next(iter(options))}); choose --engine spark"
        )


def open_engine(
    name: str, work: Path, memory_limit: str | None = None, options: Mapping[str, str] | None = None
) -> Engine:
    """Start an engine.

    Args:
        name: "duckdb" or "spark", see `check_engine`.
        work: folder for intermediate tables.
        memory_limit: such as "8GB"; None is the engine's default.
        options: settings of a Spark session, such as spark.master.

    Raises:
        ValueError: if a setting is wrong or the engine does not start.
    """
    if name == "spark":
        from data_pipelines.prepare.spark_engine import SparkEngine

        return SparkEngine(work, memory_limit, options or {})
    from data_pipelines.prepare.duckdb_engine import DuckDBEngine

    return DuckDBEngine(work, memory_limit)
