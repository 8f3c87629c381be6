"""Measure the cost of checkpoints: restoring against a plain read of the same bytes, saving against steps without it.

Restoring is measured without the files in the page cache, as after a restart, and with them.
"""

import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import jax

from socialr1_jax.benchmark.config import CheckpointBenchmark
from socialr1_jax.config.loading import load_config
from socialr1_jax.config.run import CheckpointConfig, OptimizerConfig, RunConfig
from socialr1_jax.grpo.optimizer import make_optimizer, make_schedule
from socialr1_jax.grpo.update import init_state
from socialr1_jax.models.qwen3 import init_params
from socialr1_jax.models.shapes import named_shape
from socialr1_jax.run.checkpoints import Checkpoints
from socialr1_jax.runtime.terminal import print_result
from socialr1_jax.training.grpo import train_grpo

_SMALL_RUN = "evaluation.every=0 quiet=true cold_start=0 model.random=tiny checkpoint.best= sampling.max_new_tokens=128"


def print_checkpoints(config: CheckpointBenchmark) -> None:
    """Print the measured seconds and ratios as a JSON line."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=config.folder or None) as folder:
        if config.restore:
            figures |= _restoring(config, Path(folder))
        if config.steps:
            figures |= _saving(config, Path(folder))
    print_result(json.dumps(figures))


def _restoring(config: CheckpointBenchmark, folder: Path) -> dict[str, float]:
    settings = OptimizerConfig()
    state = init_state(
        init_params(named_shape(config.shape), jax.random.key(0)), make_optimizer(settings, make_schedule(settings, 10))
    )
    checkpoints = Checkpoints(folder / "state", CheckpointConfig(), {})
    begun = time.perf_counter()
    checkpoints.save(1, state, {})
    blocked = time.perf_counter() - begun
    checkpoints.finish()
    written = time.perf_counter() - begun
    files = [path for path in (folder / "state").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    del state
    seconds: dict[str, list[float]] = {"read": [], "restore": [], "read_cached": [], "restore_cached": []}
    for _ in range(config.repeats):
        for cached in ("", "_cached"):
            for name, work in (
                ("read", lambda: [path.read_bytes() for path in files]),
                ("restore", lambda: jax.block_until_ready(checkpoints.restore(shapes, ()))),
            ):
                for path in files:
                    path.read_bytes() if cached else _out_of_cache(path)
                begun = time.perf_counter()
                result = work()
                seconds[name + cached].append(time.perf_counter() - begun)
                del result
    checkpoints.close()
    medians = {f"{name}_seconds": statistics.median(values) for name, values in seconds.items()}
    return {
        "bytes": size,
        "save_blocked_seconds": blocked,
        "save_seconds": written,
        **medians,
        "restore_to_read": medians["restore_seconds"] / medians["read_seconds"],
        "restore_to_read_cached": medians["restore_cached_seconds"] / medians["read_cached_seconds"],
    }


def _out_of_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _saving(config: CheckpointBenchmark, folder: Path) -> dict[str, float]:
    def measured(every: int) -> tuple[float, float, float]:
        """Return wall seconds and processor seconds per step, and the share of the time spent between steps."""
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        changes = [f"output_dir={run}", f"steps={config.steps}", f"checkpoint.every={every}", *_SMALL_RUN.split()]
        begun = os.times()
        train_grpo(load_config(RunConfig, "smoke", changes))
        ended = os.times()
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        rows = [row for row in rows if row["phase"] == "grpo"][5:]
        between = sum(row["seconds/between"] for row in rows)
        wall = between + sum(row["seconds"] for row in rows)
        processor = ended.user + ended.system - begun.user - begun.system
        return wall / len(rows), processor / config.steps, between / wall

    measured(0)  # compiles
    pairs = [(measured(0), measured(10)) for _ in range(config.repeats)]
    ratios = [saving[0] / plain[0] for plain, saving in pairs]
    return {
        "step_seconds": statistics.median(plain[0] for plain, _ in pairs),
        "saving_to_plain": statistics.median(ratios),
        "saving_to_plain_least": min(ratios),
        "saving_to_plain_most": max(ratios),
        "processor_saving_to_plain": statistics.median(saving[1] / plain[1] for plain, saving in pairs),
        "share_between_steps_plain": statistics.median(plain[2] for plain, _ in pairs),
        "share_between_steps_saving": statistics.median(saving[2] for _, saving in pairs),
    }
