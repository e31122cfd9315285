"""The progress bar of every command that counts what it has done. Imported inside commands: rich takes time to load."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def counting_bar(console: Console) -> Progress:
    """What is done, a bar, how many of how many, and the time so far; to be entered with `with`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)
