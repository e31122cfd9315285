"""Spark: a cluster, or all cores of this machine where no master is set."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark import SparkConf
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import broadcast

from data_pipelines.prepare.engine import Engine

_SESSION = {
    "spark.sql.session.timeZone": "UTC",
    # A value that cannot be cast is judged by our own rules, as on DuckDB, and must not end the job.
    "spark.sql.ansi.enabled": "false",
    # Spark has no timestamps of nanoseconds; as numbers, our own rules for times take them.
    "spark.sql.legacy.parquet.nanosAsLong": "true",
}
_LOCAL = {
    "spark.master": "local[*]",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
    "spark.driver.maxResultSize": "0",
    "spark.sql.shuffle.partitions": "8",
}


class SparkEngine(Engine):
    """See `Engine`. Uses the active session if there is one, and then leaves it running.

    Args:
        work: folder for intermediate tables; all executors must see it.
        memory_limit: memory of a local session's process, such as "8GB"; a cluster's is set by options.
        options: settings of the session (`spark.master`, `spark.executor.memory`, ...). They come before those of
            `spark-submit` and `spark-defaults.conf`. Without a master, Spark runs in this machine.
    """

    def __init__(self, work: Path, memory_limit: str | None, options: Mapping[str, str]) -> None:
        self.work = work
        self._views = 0
        active = SparkSession.getActiveSession()
        self._owned = active is None
        with _user_errors():
            self._session = active or _new_session(memory_limit, options)
            for name, value in _SESSION.items():
                self._session.conf.set(name, value)
            self.connection = ibis.pyspark.connect(self._session)

    def close(self) -> None:
        """Stop the session if it was started here."""
        if self._owned:
            self._session.stop()

    def _frame(self, expression: ir.Table) -> DataFrame:
        return self._session.sql(self.connection.compile(expression))

    def _view(self, frame: DataFrame) -> ir.Table:
        self._views += 1
        name = f"prepare_{self._views}"
        frame.createOrReplaceTempView(name)
        return self.connection.table(name)

    def secret(self, value: str) -> ir.Table:
        """A table of one row with the column `secret`, see `Engine`."""
        with _user_errors():
            # Of its size Spark knows nothing; without the hint it would repeat the other side of a join.
            return self._view(broadcast(self._session.createDataFrame([(value,)], "secret string")))

    def table(self, expression: ir.Table) -> pa.Table:
        """The rows of an expression. Raises ValueError if a source cannot be read."""
        # Ibis would go through pandas, where a column of integers with nulls becomes one of inexact floats.
        with _user_errors():
            return self._frame(expression).toArrow()

    def read_parquet(self, files: Sequence[Path]) -> ir.Table:
        """Parquet files of one schema, see `Engine`."""
        with _user_errors():
            frame = self._session.read.parquet(*(_uri(file) for file in files))
            # Spark names a file as an encoded URI; a plus sign would be decoded to a space.
            path = "regexp_replace(url_decode(replace(_metadata.file_path, '+', '%2B')), '^file:/+', '/')"
            row = "_metadata.row_index + 1"
            return self._view(frame.selectExpr("*", f"{path} AS source_path", f"{row} AS source_row"))

    def open_folder(self, folder: Path) -> ir.Table:
        """A table that `write_parquet` wrote."""
        with _user_errors():
            return self._view(self._session.read.parquet(_uri(folder)))

    def write_parquet(self, expression: ir.Table, folder: Path, partition_by: str | None = None) -> None:
        """Write the rows of an expression, see `Engine`."""
        with _user_errors():
            frame = self._frame(expression)
            if partition_by is not None:
                # Without it every task would write a file to every partition.
                frame = frame.repartition(partition_by)
            writer = frame.write.mode("overwrite")
            if partition_by is not None:
                writer = writer.partitionBy(partition_by)
            writer.parquet(_uri(folder))


def _new_session(memory_limit: str | None, options: Mapping[str, str]) -> SparkSession:
    given = SparkConf()
    settings = dict(options)
    if not given.contains("spark.master") and "spark.master" not in settings:
        settings = {name: value for name, value in _LOCAL.items() if not given.contains(name)} | settings
        if memory_limit is not None:
            size = re.fullmatch(r"(\d+)\s*([KMGT])i?B?", memory_limit, re.IGNORECASE)
            if size is None:
                raise ValueError(f"memory_limit is {memory_limit!r}: expected a size such as '8GB'")
            settings.setdefault("spark.driver.memory", f"{size[1]}{size[2].lower()}")
    builder = SparkSession.builder.appName("spacetime-gr prepare")
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def _uri(path: Path) -> str:
    """A path as Spark reads it literally: without an escape, it would take `*`, `[` and `{` for patterns."""
    return "file://" + re.sub(r"([*?\[\]{}\\])", r"\\\1", str(path.absolute()))


@contextmanager
def _user_errors() -> Iterator[None]:
    """Turn Spark's errors into a ValueError of one line."""
    try:
        yield
    except (PySparkException, Py4JError) as error:
        text = str(error).strip()
        causes = re.findall(r"Caused by: (.+)", text)
        said = causes[-1] if causes else text.splitlines()[0]
        raise ValueError(f"Spark could not read the source or run the job: {said}") from error
