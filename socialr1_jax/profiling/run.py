"""Profile a run: warm-up steps that compile, traced steps, and the folder with the results."""

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import jax

from socialr1_jax.benchmark.peaks import Peaks, device_text, measure_peaks
from socialr1_jax.config.profile import ProfileConfig
from socialr1_jax.config.quickstart import QuickstartConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.grpo.rollouts import PHASES
from socialr1_jax.profiling.page import say_summary, write_page
from socialr1_jax.profiling.programs import loaded_programs
from socialr1_jax.profiling.steps import Measured, Steps
from socialr1_jax.profiling.summary import summarise
from socialr1_jax.profiling.trace import read_trace
from socialr1_jax.profiling.watch import watching
from socialr1_jax.run.console import console, shown_log, working
from socialr1_jax.run.run import Laps, run_mesh
from socialr1_jax.run.summary import peak_bytes
from socialr1_jax.runtime.compiles import compile_count
from socialr1_jax.runtime.files import whole_folder, write_json
from socialr1_jax.runtime.terminal import counted, print_line
from socialr1_jax.training.quickstart import untrained_run

# The first step compiles. Warm-ups end with the first later step that compiles nothing, which is the untraced baseline;
# the second step may compile too, since its prompts may have another width.
_MOST_WARM_UPS = 5


def print_profile(settings: tuple[ProfileConfig, RunConfig]) -> None:
    """Profile a run and print the path of the page. Raises like `profile_run`."""
    config, run = settings
    page = profile_run(run, config.phase, config.steps, Path(config.output_dir), config.strict)
    print_line(f"{page} and, beside it, profile.json, trace, hlo and memory.pprof")


def profile_run(config: RunConfig, measured: Measured, steps: int, folder: Path, strict: bool = False) -> Path:
    """Profile `steps` steps of the run, or of one of its phases, into `folder`; return the path of profile.html.

    The folder is written atomically and replaces an earlier profile. Raises ImplicitTransfer if `strict` and the update
    transfers an array implicitly, FileExistsError if the folder holds anything else, ConfigError for a run that replays
    rollouts, and the errors of opening a run.
    """
    if config.replay_rollouts:
        raise ConfigError("replay_rollouts: there is no rollout to profile; leave it out")
    # A cached program has the block names, and on a CPU the ids, of the process that compiled it.
    jax.config.update("jax_enable_compilation_cache", False)
    with (
        shown_log(config.quiet, config.verbose),
        whole_folder(folder, marker="profile.json") as unfinished,
        tempfile.TemporaryDirectory() as scratch,
    ):
        if isinstance(config, QuickstartConfig):
            console.print("random weights: neither SFT nor the content reward model is trained", style="dim")
            config = untrained_run(config, Path(scratch))
        config = config.model_copy(update={"output_dir": scratch})
        mesh = run_mesh(config)
        peaks = measure_peaks(config.model.dtype)  # before the run allocates memory, and again at the end
        with jax.set_mesh(mesh):
            run = Steps(config, strict)
            with closing(run.sampler):
                summary = _profile(run, peaks, measured, steps, unfinished)
        write_json(unfinished / "profile.json", summary)
        write_page(summary, unfinished / "profile.html")
        say_summary(summary)
    return folder / "profile.html"


def _profile(run: Steps, peaks: Peaks, measured: Measured, steps: int, folder: Path) -> dict[str, Any]:
    for warm_up in range(_MOST_WARM_UPS):
        with working(f"warm-up step {warm_up + 1}"):
            untraced, before = Laps(), compile_count()
            untraced.begin(PHASES)
            run.run(measured, warm_up, untraced.phase)
            compiled = compile_count() - before
        if warm_up and not compiled:
            break
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # an event per Python call would slow the steps down
    with working(f"tracing {counted(steps, 'step')}"), watching() as seen:
        jax.profiler.start_trace(folder / "trace", profiler_options=options)
        for number in range(warm_up + 1, warm_up + 1 + steps):
            with jax.profiler.StepTraceAnnotation("step", step_num=number):
                run.run(measured, number, seen.phase)
        memory = peak_bytes()
        jax.profiler.stop_trace()
    jax.profiler.save_device_memory_profile(folder / "memory.pprof")
    with working("reading the trace"):
        trace = read_trace(folder / "trace")
        programs = loaded_programs({op.program for line in trace.lines for op in line})
        (folder / "hlo").mkdir()
        for program in programs.values():
            (folder / "hlo" / program.file).write_text(program.text, encoding="utf-8")
        peaks = Peaks(*map(max, peaks, measure_peaks(run.config.model.dtype)))  # other load can only lower a peak
        phases = PHASES if measured == "step" else (measured,)
        figures = summarise(trace, programs, peaks, measured, phases, run.costs())
    order = sorted(programs.values(), key=lambda program: -program.memory["temp"])
    return {
        "measured": measured,
        "steps": steps,
        "device": f"{jax.device_count()} x {device_text()}",
        "jax": jax.__version__,
        "dtype": run.config.model.dtype,
        "peaks": {"flops": peaks.flops, "bytes_per_second": peaks.bandwidth},
        "untraced_seconds": untraced.total,
        "compiled_in_untraced": compiled,
        "memory_peak_bytes": memory,
        "attention": run.backend,
        **figures,
        "compilations": seen.compilations,
        "programs": [{"name": p.name, "file": f"hlo/{p.file}", "memory": p.memory, "cost": p.cost} for p in order],
    }
