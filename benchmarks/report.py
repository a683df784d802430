"""What has been measured: medians, ratios to this worker, a table, and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

#: The measures of one run by their names, in their units of :data:`METRICS`.
Sample = Mapping[str, float]


@dataclass(frozen=True)
class Metric:
    """One thing that is measured."""

    title: str
    unit: str
    #: How many digits after the point a table shows.
    digits: int = 0


#: All metrics by name, in the order of reports.
METRICS = {
    "rate": Metric("requests/s", "requests per second"),
    "cpu": Metric("CPU us", "microseconds of CPU time of the server per request, user and system", 1),
    "instructions": Metric("instr.", "user-space instructions of the server per request"),
    "memory": Metric("peak MiB", "MiB of the worker's largest resident set", 1),
    "p50": Metric("p50 ms", "milliseconds that half of the requests took at most", 2),
    "p99": Metric("p99 ms", "milliseconds that 99 % of the requests took at most", 2),
    "idle": Metric("KiB/conn.", "KiB of the server's own memory per idle connection", 2),
}


@dataclass
class Result:
    """What is known of one contender at one workload."""

    samples: list[Sample] = field(default_factory=list)
    #: Why there are no samples, or no more of them.
    reason: str | None = None

    def medians(self) -> dict[str, float]:
        """The median of each metric that every sample has."""
        if not self.samples or self.reason:
            return {}
        names = [name for name in METRICS if all(name in sample for sample in self.samples)]
        return {name: median(sample[name] for sample in self.samples) for name in names}


#: Results by the names of workloads and of contenders.
Results = Mapping[str, Mapping[str, Result]]


def ratios(of: Mapping[str, float], to: Mapping[str, float]) -> dict[str, float]:
    """How many times as much it is, for each metric that both have."""
    return {name: value / to[name] for name, value in of.items() if to.get(name)}


def as_json(results: Results, titles: Mapping[str, str], reference: str) -> dict[str, Any]:
    """All results as JSON has them: samples, medians and ratios, or the reason why there are none.

    :param titles: of workloads and contenders, by name.
    :param reference: the name of the contender to which ratios are taken.
    """
    return {
        "metrics": {name: metric.unit for name, metric in METRICS.items()},
        "reference": reference,
        "workloads": {
            workload: {
                "title": titles[workload],
                "contenders": {
                    name: {"title": titles[name], **_entry(result, of_all.get(reference, Result()))}
                    for name, result in of_all.items()
                },
            }
            for workload, of_all in results.items()
        },
    }


def _entry(result: Result, reference: Result) -> dict[str, Any]:
    medians = result.medians()
    return {
        "reason": result.reason,
        "samples": result.samples,
        "medians": medians,
        "ratios": ratios(medians, reference.medians()),
    }


def table(report: Mapping[str, Any]) -> str:
    """What :func:`as_json` has made, as text: a block for each workload; behind each figure its ratio."""
    blocks = ("\n".join(_block(name, workload)) for name, workload in report["workloads"].items())
    return "\n\n".join(blocks) + "\n"


def _block(name: str, workload: Mapping[str, Any]) -> Iterator[str]:
    entries = workload["contenders"].values()
    metrics = {key: metric for key, metric in METRICS.items() if any(key in entry["medians"] for entry in entries)}
    yield f"{name}: {workload['title']}"
    yield _line("", [metric.title for metric in metrics.values()], ["ratio"] * len(metrics))
    for entry in entries:
        if not entry["medians"]:
            yield _line(entry["title"], ["-"] * len(metrics), ["-"] * len(metrics))
            continue
        figures = [_figure(entry["medians"].get(key), metric.digits) for key, metric in metrics.items()]
        yield _line(entry["title"], figures, [_figure(entry["ratios"].get(key), 2) for key in metrics])


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _line(title: str, figures: list[str], of_reference: list[str]) -> str:
    pairs = zip(figures, of_reference, strict=True)
    return f"  {title:26}" + "".join(f"{figure:>12}{ratio:>7}" for figure, ratio in pairs)


def share_of_core(report: Mapping[str, Any]) -> float | None:
    """What the servers had of a core, in the median of all runs; ``None`` if none was loaded."""
    entries = (entry for workload in report["workloads"].values() for entry in workload["contenders"].values())
    samples = (sample for entry in entries for sample in entry["samples"] if "rate" in sample)
    shares = [sample["rate"] * sample["cpu"] / 1e6 for sample in samples]
    return median(shares) if shares else None


def reasons(report: Mapping[str, Any]) -> list[str]:
    """A line for each dash of the table."""
    return [
        f"{name}: {entry['title']}: {entry['reason']}"
        for name, workload in report["workloads"].items()
        for entry in workload["contenders"].values()
        if entry["reason"]
    ]
