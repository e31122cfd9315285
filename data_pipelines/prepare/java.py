"""Whether Spark can be started here: PySpark, and a Java that it runs on."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

_OLDEST_JAVA = 17
_REMEDY = (
    "install Java 17 or 21 (Debian: apt-get install openjdk-17-jre-headless) and set JAVA_HOME if it is not on PATH, "
    "or take --engine duckdb"
)


def require_pyspark() -> None:
    """Raises ValueError if PySpark is not installed."""
    if importlib.util.find_spec("pyspark") is None:
        raise ValueError("--engine spark needs PySpark: pip install 'spacetime-gr[spark]'")


def require_java() -> Path:
    """The Java that Spark will start: JAVA_HOME's, else the first on PATH.

    Raises:
        ValueError: if there is none, it does not run, or it is too old; with the remedy.
    """
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if found is None:
        raise ValueError(f"--engine spark needs Java, and none is on PATH: {_REMEDY}")
    where = f"{found} (from JAVA_HOME)" if home else found
    try:
        said = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"--engine spark needs Java, and {where} does not run: {_REMEDY}") from error
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    if version is None or int(version[1]) < _OLDEST_JAVA:
        shown = said.splitlines()[0] if said else "nothing"
        raise ValueError(f"--engine spark needs Java {_OLDEST_JAVA} or newer, {where} says {shown}: {_REMEDY}")
    return Path(found)
