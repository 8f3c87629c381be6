"""Which of XLA's flags make a benchmark faster on this machine: each beside none, in turn, each run its own process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from socialr1_jax.files import write_whole
from socialr1_jax.ownership import begins_as, refuse_foreign_file
from socialr1_jax.training.benchmark_record import machine
from socialr1_jax.training.provenance import versions

_HEAD = "# XLA flags for "  # of the file that is written
BENCHMARK = Path(__file__).parents[2] / "scripts" / "benchmark.py"
# What is tried where nothing is named. Flags that give up exactness (fast math) are none of them.
CANDIDATES: dict[str, tuple[str, ...]] = {
    "cpu": (
        "--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_RUNTIME",
        "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_CONCURRENCY_OPTIMIZED",
        "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        "--xla_cpu_copy_insertion_use_region_analysis=true",
        "--xla_cpu_experimental_enable_tiling_propagation=true",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_use_xnnpack=false",
        "--xla_cpu_prefer_vector_width=512",
    ),
    "gpu": (
        "--xla_gpu_enable_latency_hiding_scheduler=true",
        "--xla_gpu_enable_triton_gemm=false",
        "--xla_gpu_enable_command_buffer=",
        "--xla_gpu_enable_while_loop_double_buffering=true",
        "--xla_gpu_enable_pipelined_all_gather=true",
        "--xla_gpu_enable_pipelined_reduce_scatter=true",
        "--xla_gpu_all_gather_combine_threshold_bytes=1073741824",
        "--xla_gpu_reduce_scatter_combine_threshold_bytes=1073741824",
    ),
}


def candidates() -> tuple[str, ...]:
    """The flags to try on JAX's backend, which another process asks for: in this one it would hold the devices."""
    asked = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise BenchmarkFailed(f"JAX does not start: {done.stderr.strip().splitlines()[-1]}")
    backend = done.stdout.split()[-1]
    if backend not in CANDIDATES:
        raise ValueError(f"no flags are known for {backend}: name some with --flags")
    return CANDIDATES[backend]


@dataclass
class Trial:
    """A set of flags: seconds without over seconds with them, turn by turn, or why they could not be run."""

    flags: tuple[str, ...]
    gains: list[float] = field(default_factory=list)
    failed: str = ""

    @property
    def gain(self) -> float:
        return statistics.median(self.gains) if self.gains else 0.0

    def worth(self, least: float) -> bool:
        """Whether the flags gain at least this much in the median, and something in every turn."""
        return not self.failed and self.gain >= least and min(self.gains) > 1


class BenchmarkFailed(RuntimeError):
    """The benchmark did not give a result; the message is the last line that it said."""


def measured(arguments: Sequence[str], figure: str, limit: float = 3600.0) -> Callable[[Sequence[str]], float]:
    """flags -> seconds: what `figure` of the benchmark is with them. Raises BenchmarkFailed, after `limit` seconds too.

    A figure that ends in tok_s counts as seconds a token.
    """

    def seconds(flags: Sequence[str]) -> float:
        environment = os.environ | {"XLA_FLAGS": " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()}
        command = [sys.executable, str(BENCHMARK), *arguments]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise BenchmarkFailed(f"no result within {limit:.0f} s") from error
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise BenchmarkFailed(next((line for line in said if "Unknown flag" in line), said[-1] if said else ""))
        result = json.loads(done.stdout.splitlines()[-1])
        if figure not in result:
            raise ValueError(f"the benchmark has no {figure}; grpo_step_s needs prompts, update_tok_s an update")
        return 1 / result[figure] if figure.endswith("tok_s") else result[figure]

    return seconds


def tune(
    seconds: Callable[[Sequence[str]], float],
    flags: Sequence[str],
    *,
    turns: int,
    least: float,
    say: Callable[[Trial], None] = lambda trial: None,
) -> tuple[list[Trial], Trial | None]:
    """A trial of each flag, and one, in turns of its own, of all that seemed worth it; None where none did.

    A turn is a run without and a run with: what the machine does beside hits both. The best of many by chance look
    better than they are, so only the second trial says what the flags gain.
    """
    trials = []
    for flag in flags:
        trials.append(_tried((flag,), seconds, turns))
        say(trials[-1])
    best: dict[str, Trial] = {}
    for trial in sorted(trials, key=lambda trial: trial.gain):
        if trial.worth(least):
            best[trial.flags[0].partition("=")[0]] = trial  # of several values of one flag the better
    if not best:
        return trials, None
    again = _tried(tuple(trial.flags[0] for trial in best.values()), seconds, 2 * turns)
    say(again)
    return trials, again


def _tried(flags: tuple[str, ...], seconds: Callable[[Sequence[str]], float], turns: int) -> Trial:
    trial = Trial(flags)
    try:
        for _ in range(turns):
            without = seconds(())
            trial.gains.append(without / seconds(flags))
    except BenchmarkFailed as error:
        trial.failed = str(error)
    return trial


def refuse_foreign_settings(file: Path) -> None:
    """Raise ForeignFile if there is a file that `write_settings` did not write."""
    refuse_foreign_file(file, partial(begins_as, begin=_HEAD.encode()), "a file of XLA flags")


def write_settings(
    file: Path, trials: Sequence[Trial], again: Trial | None, *, least: float, command: str, figure: str
) -> tuple[str, ...]:
    """Writes a configuration file with the flags that were worth it again, and the gains of all; returns the flags."""
    kept = again.flags if again is not None and again.worth(least) else ()
    lines = [
        f"{_HEAD}{machine()}: seconds without over seconds with a flag ({figure}, median of the turns).",
        f"# {time.strftime('%Y-%m-%d')}, jax {versions()['jax']}: {command}",
        "xla_flags:" if kept else "xla_flags: []",
        *(f"  - {flag}" for flag in kept),
    ]
    if again is not None:
        lines.append(f"# {'These' if kept else ' '.join(again.flags)}, measured again: {_shown(again)}")
    lines += [f"# tried: {trial.flags[0]}  {_shown(trial)}" for trial in trials]
    refuse_foreign_settings(file)
    write_whole(file, "\n".join(lines) + "\n")
    return kept


def _shown(trial: Trial) -> str:
    return trial.failed or f"{trial.gain:.3f} ({', '.join(f'{gain:.3f}' for gain in trial.gains)})"
