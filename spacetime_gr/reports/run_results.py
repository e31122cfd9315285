"""An evaluation's JSON, read the same way for the model, the counters and the ceiling."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spacetime_gr.reports.charts import percent
from spacetime_gr.reports.run_calibration import wilson

MODEL, CEILING = "model", "ceiling"
PARTS = {"all": "all targets", "return": "returns", "discovery": "discoveries"}


@dataclass(frozen=True)
class Results:
    """A result of `spacetime-gr evaluate`."""

    raw: Mapping[str, Any]

    @property
    def systems(self) -> list[str]:
        """The model if it was evaluated, then the counters."""
        return [*([MODEL] if "metrics" in self.raw else []), *self.raw["baselines"]]

    @property
    def best_counter(self) -> str | None:
        """The counter with the highest HR@10; None if there is none."""
        counters = self.raw["baselines"]
        return max(counters, key=lambda name: counters[name].get("hr@10") or 0.0, default=None)

    def value(self, system: str, metric: str, part: str = "all") -> float | None:
        """A metric of a system (or the ceiling) over a part of the targets; None where it was not measured."""
        if system == CEILING:
            holder, slices = self.raw.get(CEILING, {}), self.raw.get(CEILING, {}).get("slices", {})
        elif system == MODEL:
            holder, slices = self.raw.get("metrics", {}), self.raw.get("slices", {})
        else:
            holder, slices = self.raw["baselines"].get(system, {}), self.raw["baseline_slices"].get(system, {})
        found = (holder if part == "all" else slices.get(part, {})).get(metric)
        return None if found is None else float(found)

    def by_role(self, key: str, system: str) -> Any:
        """The system's entry in a part of the result that has `model` and `baselines`; None where there is none."""
        holder = self.raw.get(key)
        if not isinstance(holder, Mapping):
            return None
        return holder.get(MODEL) if system == MODEL else holder.get("baselines", {}).get(system)

    def num_targets(self, part: str = "all") -> int:
        """Targets of a part."""
        total, new = int(self.raw["num_targets"]), int(self.raw["num_discoveries"])
        return {"all": total, "return": total - new, "discovery": new}[part]

    @property
    def resampled(self) -> bool:
        """Whether the result brings intervals of its own."""
        return "intervals" in self.raw

    def interval(self, system: str, metric: str, part: str = "all") -> tuple[float, float] | None:
        """The result's own interval; else, for hit rates, that of a share of independent trials; else None."""
        if system == CEILING:
            return None
        if self.resampled:
            pair = ((self.by_role("intervals", system) or {}).get(part) or {}).get(metric)
            return None if pair is None else (float(pair[0]), float(pair[1]))
        value, count = self.value(system, metric, part), self.num_targets(part)
        if value is None or not metric.startswith("hr@") or count == 0:
            return None
        return wilson(value * count, count)

    @property
    def level(self) -> float:
        """How sure the intervals are."""
        return float(self.raw["intervals"]["level"]) if self.resampled else 0.95

    @property
    def about_intervals(self) -> str:
        """How the intervals were made."""
        if self.resampled:
            times = self.raw["intervals"]["resamples"]
            return f"Whiskers are {percent(self.level)} intervals from {times:,} bootstrap resamples of users."
        return (
            "Whiskers are 95 % Wilson intervals that take targets as independent; they are not, since a person has "
            "several, so the truth is wider."
        )


def rate(value: float | None) -> str:
    """A metric between 0 and 1, as tables write it."""
    return "-" if value is None else f"{value:.3f}"
