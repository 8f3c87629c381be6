"""A profile of a run: steps that compile, steps that are traced, and the folder that says what was seen."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax

from socialr1_jax.config.run import ConfigError, QuickstartConfig, RunConfig
from socialr1_jax.grpo.rollouts import PHASES
from socialr1_jax.profiling.conclusion import conclusion
from socialr1_jax.profiling.config import ProfileConfig
from socialr1_jax.profiling.page import say_summary, write_page
from socialr1_jax.profiling.peaks import Peaks, measure_peaks
from socialr1_jax.profiling.programs import loaded_programs
from socialr1_jax.profiling.start import quickstart_run
from socialr1_jax.profiling.steps import Measured, Steps
from socialr1_jax.profiling.summary import STEP, summarise
from socialr1_jax.profiling.trace import read_trace
from socialr1_jax.profiling.watch import Watch, watching
from socialr1_jax.run.console import console, shown_log, working
from socialr1_jax.run.run import run_mesh
from socialr1_jax.run.summary import peak_bytes
from socialr1_jax.runtime.compiles import compile_count
from socialr1_jax.runtime.files import whole_folder, write_json
from socialr1_jax.runtime.terminal import counted, print_line

_PUT = "DevicePutWithSharding"  # what the runtime calls an array that goes to a device, asked for or not
# The first compiles. The last is the step that the traced ones are compared with: the first later one that compiles
# nothing, for the second step's prompts may have another width.
_MOST_WARM_UPS = 5


def print_profile(settings: tuple[ProfileConfig, RunConfig]) -> None:
    """Profile a run and print where the page is. Raises as `profile_run`."""
    config, run = settings
    page = profile_run(run, config.phase, config.steps, Path(config.output_dir), config.strict)
    print_line(f"{page} and, beside it, profile.json, trace, hlo and memory.pprof")


def profile_run(config: RunConfig, measured: Measured, steps: int, folder: Path, strict: bool = False) -> Path:
    """Profiles `steps` steps of the run, or of one phase of it, into `folder`; the path of its profile.html.

    The folder appears whole or not at all and replaces an earlier profile. Raises ImplicitTransfer when `strict` and
    the update moves an array unasked, FileExistsError for a folder that holds anything else, ConfigError for a run that
    samples nothing, and what opening the run raises.
    """
    if config.replay_rollouts:
        raise ConfigError("replay_rollouts: there is no rollout to profile; leave it out")
    # A program kept on disk has the names of blocks, and on a CPU the ids, of the process that compiled it.
    jax.config.update("jax_enable_compilation_cache", False)
    with (
        shown_log(config.quiet, config.verbose),
        whole_folder(folder, marker="profile.json") as unfinished,
        tempfile.TemporaryDirectory() as scratch,
    ):
        run = _opened(config, Path(scratch))
        mesh = run_mesh(run)
        peaks = measure_peaks(run.model.dtype)  # before the run takes the memory, and again at the end
        with jax.set_mesh(mesh):
            opened = Steps(run, strict)
            try:
                summary = _profile(opened, peaks, measured, steps, unfinished)
                summary = {"conclusion": conclusion(summary), **summary}
            finally:
                opened.close()
        write_json(unfinished / "profile.json", summary)
        write_page(summary, unfinished / "profile.html")
        say_summary(summary)
    return folder / "profile.html"


def _opened(config: RunConfig, scratch: Path) -> RunConfig:
    """The run, whatever it writes going into `scratch`."""
    if isinstance(config, QuickstartConfig):
        console.print("random weights: neither SFT nor the content reward model is trained for a profile", style="dim")
        config = quickstart_run(config, scratch)
    return config.model_copy(update={"output_dir": str(scratch)})


def _profile(run: Steps, peaks: Peaks, measured: Measured, steps: int, folder: Path) -> dict[str, Any]:
    for warm_up in range(_MOST_WARM_UPS):
        with working(f"warm-up step {warm_up + 1}"):
            untraced, before = _Laps(), compile_count()
            run.run(measured, warm_up, untraced.phase)
            compiled = compile_count() - before
        if warm_up and not compiled:
            break
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # each call of Python would be an event: steps of another length
    with working(f"tracing {counted(steps, 'step')}"), watching() as seen:
        jax.profiler.start_trace(folder / "trace", profiler_options=options)
        for number in range(warm_up + 1, warm_up + 1 + steps):
            if measured == STEP:
                with jax.profiler.StepTraceAnnotation(STEP, step_num=number):
                    run.run(measured, number, seen.phase)
            else:  # the step is the phase; what it is made from is there from the warm-up
                run.run(measured, number, partial(_step_of_one_phase, seen, number))
        memory = peak_bytes()
        jax.profiler.stop_trace()
    jax.profiler.save_device_memory_profile(folder / "memory.pprof")
    with working("reading the trace"):
        trace = read_trace(folder / "trace")
        programs = loaded_programs({op.program for line in trace.lines for op in line})
        (folder / "hlo").mkdir()
        for program in programs.values():
            (folder / "hlo" / program.file).write_text(program.text, encoding="utf-8")
        peaks = peaks.best(measure_peaks(run.config.model.dtype))
        figures = summarise(trace, programs, peaks, PHASES if measured == STEP else (measured,), run.costs())
    kind = jax.devices()[0].device_kind
    return {
        "measured": measured,
        "steps": steps,
        "device": f"{jax.device_count()} x {kind}" + (f", {os.cpu_count()} cores" if kind == "cpu" else ""),
        "platform": jax.default_backend(),
        "jax": jax.__version__,
        "dtype": run.config.model.dtype,
        "peaks": {"flops": peaks.flops, "bytes_per_second": peaks.bandwidth},
        "untraced_seconds": untraced.seconds,
        "compiled_in_untraced": compiled,
        "memory_peak_bytes": memory,
        "sizes": run.sizes(),
        "settings": _settings(run),
        **figures,
        "compilations": [asdict(one) for one in seen.compilations],
        "transfers": [
            {"phase": phase, "direction": direction, "array": array, "count": count}
            for (phase, direction, array), count in seen.transfers.most_common()
        ],
        "puts": sum(any(s.start <= put.start < s.stop for s in trace.spans(STEP)) for put in trace.spans(_PUT)) / steps,
        "programs": [
            {"name": program.name, "file": f"hlo/{program.file}", "memory": program.memory, "cost": program.cost}
            for program in sorted(programs.values(), key=lambda program: -program.memory.get("temp", 0))
        ],
    }


def _settings(run: Steps) -> dict[str, Any]:
    """Return the settings that time depends on, by their dotted names."""
    config = run.config
    return {
        "sampling.segment_tokens": config.sampling.segment_tokens,
        "sampling.max_rows": config.sampling.max_rows,
        "grpo.micro_batch_tokens": config.grpo.micro_batch_tokens,
        "model.remat": config.model.remat,
        "model.attention": run.backend,
        "rewards.structure.judge": config.rewards.structure.judge,
        "rewards.structure.concurrency": config.rewards.structure.concurrency,
    }


@contextmanager
def _step_of_one_phase(seen: Watch, number: int, name: str) -> Iterator[None]:
    with jax.profiler.StepTraceAnnotation(STEP, step_num=number), seen.phase(name):
        yield


class _Laps:
    """Wall seconds of the phases of one step, without a trace."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def phase(self, _: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started
