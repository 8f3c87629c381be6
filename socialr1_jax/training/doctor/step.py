"""One GRPO step of a tiny model, from sampling to export, computed as the run would be."""

import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from socialr1_jax.config import RunConfig
from socialr1_jax.training.doctor.devices import platform, run_mesh
from socialr1_jax.training.doctor.line import DoctorConfig, Line, NotChecked, good_or


def check_step(config: DoctorConfig) -> Iterator[Line]:
    if config.no_step:
        raise NotChecked("--no-step")
    platform()
    from socialr1_jax.processes import in_cluster

    if in_cluster(os.environ):
        raise NotChecked("this is one of several processes, and the tiny step is run by one alone")
    from socialr1_jax.training.grpo import train_grpo

    quiet = io.StringIO()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        folder = Path(name) / "run"
        complete = train_grpo(tiny_run(config, folder))
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    if not complete:
        raise NotChecked("interrupted")
    loss = next(row["loss"] for row in reversed(rows) if "loss" in row)
    finite = loss is not None  # as metrics.jsonl has it
    told = f"a GRPO step of a tiny model in {config.model.dtype}, from sampling to export, in "
    told += f"{time.monotonic() - started:.0f} s: " + (f"loss {loss:.4f}" if finite else "the loss is not finite")
    fix = "model.attention=xla or model.dtype=float32 tells where from"
    yield good_or("problem", "tiny step", finite, told, fix)


def tiny_run(config: DoctorConfig, folder: Path) -> RunConfig:
    """A run of one step on generated stories with random weights, computed as `config` says."""
    import jax

    from socialr1_jax.models.qwen3 import check_mesh
    from socialr1_jax.models.shapes import SHAPES

    mesh = config.mesh.model_dump()
    try:
        check_mesh(SHAPES["nano"], run_mesh(config))
    except (ValueError, NotChecked):  # whole copies fit any number of devices
        mesh = {"replica": jax.device_count(), "fsdp": 1, "tensor": 1}
    return RunConfig.model_validate(
        {
            "output_dir": str(folder),
            "steps": 1,
            "model": config.model.model_dump() | {"path": "", "random": "nano"},
            "mesh": mesh,
            "data": {"train": "stories:16", "holdout": 4, "max_prompt_tokens": 512},
            "sampling": {"group_size": 2, "max_new_tokens": 24},
            # Random text has no reward: it is the entropy that moves the weights.
            "grpo": {"prompts_per_step": 4, "mini_batch_prompts": 4, "entropy_coefficient": 0.01},
            "optimizer": {"name": config.optimizer.name, "learning_rate": 1e-3},
            "evaluation": {"every": 0, "questions": 4, "samples": 2},  # rows and caches as the step's: its programs
            "tracking": {"tensorboard": False},
        }
    )  # fmt: skip
