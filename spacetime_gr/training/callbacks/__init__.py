"""What happens around the training steps, one concern per file."""

from spacetime_gr.training.callbacks.base import Callback
from spacetime_gr.training.callbacks.checkpointing import Checkpointing
from spacetime_gr.training.callbacks.console import Console
from spacetime_gr.training.callbacks.evaluation import Evaluation
from spacetime_gr.training.callbacks.export import Export
from spacetime_gr.training.callbacks.goodput import Goodput
from spacetime_gr.training.callbacks.jsonl import JsonLines
from spacetime_gr.training.callbacks.memory import MemorySnapshot
from spacetime_gr.training.callbacks.metrics import Metrics
from spacetime_gr.training.callbacks.own import own_callbacks
from spacetime_gr.training.callbacks.profiler import Profiler
from spacetime_gr.training.callbacks.signals import StopSignals
from spacetime_gr.training.callbacks.skipped_steps import SkippedSteps
from spacetime_gr.training.callbacks.wandb import Wandb
from spacetime_gr.training.callbacks.watchdog import Watchdog

__all__ = [
    "Callback",
    "Checkpointing",
    "Console",
    "Evaluation",
    "Export",
    "Goodput",
    "JsonLines",
    "MemorySnapshot",
    "Metrics",
    "Profiler",
    "SkippedSteps",
    "StopSignals",
    "Wandb",
    "Watchdog",
    "own_callbacks",
]
