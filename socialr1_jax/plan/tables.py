"""Print a plan as three tables: memory, traffic and time."""

from rich.table import Table

from socialr1_jax.config.run import PlanConfig
from socialr1_jax.plan.plan import Plan
from socialr1_jax.run.console import Console
from socialr1_jax.run.epochs import steps_of
from socialr1_jax.runtime.chips import RATES
from socialr1_jax.runtime.terminal import counted, gib

_CHECKED = {"hopper": "the kernels of decoding, prefill and updates on one H200; links are assumed"}


def print_plan(plan: Plan, config: PlanConfig) -> None:
    """Print the tables on standard output, wide enough that no cell wraps."""
    console = Console(width=150)
    console.print(
        f"{config.model.path or config.model.random} on {config.topology}, attention {plan.backend}: "
        f"{gib(plan.memory)} GiB a device, of which the run may take {gib(plan.allowed)}"
    )
    if plan.why:
        console.print(plan.why)
    for name, size in plan.hosted.items():
        console.print(f"in the host's memory: {name}, {gib(size)} GiB a device, {gib(size * plan.node)} a node")
    console.print()
    console.print(_memory(plan))
    console.print(_traffic(plan))
    if plan.chip.flops:
        console.print(_time(plan, config))
        rates = RATES[plan.chip.architecture]
        console.print(
            f"predicted: matrix products at {rates.matmul:.0%} of the peak FLOP/s, memory at {rates.memory:.0%} of the "
            f"peak, links at {rates.links:.0%}, the host's at {rates.host:.0%}; MFU of the updates {plan.mfu:.0%}. "
            f"Checked against a run: {_CHECKED.get(plan.chip.architecture, 'nothing yet')} (docs/hardware.md). "
            "Without the judge, evaluations, checkpoints and compiling\n"
        )
    if plan.free >= 0:
        console.print(f"it fits: {plan.fullest.name} needs most memory and leaves {gib(plan.free)} GiB a device free")


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    return table


def _memory(plan: Plan) -> Table:
    names = list(dict.fromkeys(name for phase in plan.phases for name in phase.beside))
    table = _table(
        "GiB a device", "phase", "arguments", "results", "temporaries", *(f"beside: {name}" for name in names), "peak"
    )
    for phase in plan.phases:
        cells = [phase.arguments, phase.outputs, phase.temporaries, *(phase.beside.get(name, 0) for name in names)]
        fits = "" if phase.peak <= plan.allowed else " !"
        table.add_row(phase.name, *(gib(cell) if cell else "" for cell in cells), gib(phase.peak) + fits)
    return table


def _traffic(plan: Plan) -> Table:
    title = "between devices, of one call (inside decode's loop: of one token)"
    figures = "times", "devices", "MiB of one", "GiB sent in all", "ms", "ms exposed"
    table = _table(title, "phase", "attention", "collective", *figures)
    for phase in plan.phases:
        kernels = ", ".join(phase.attention) or "-"
        if not phase.schedule.collectives:
            table.add_row(phase.name, kernels, "none")
        for c in phase.schedule.collectives:
            kind = ("async " if c.asynchronous else "") + c.kind + (" in the loop" if c.in_open_loop else "")
            times = (f"{1000 * seconds:.1f}" if plan.chip.flops else "" for seconds in (c.seconds, c.exposed))
            sizes = (str(c.times), str(c.group), f"{c.result_bytes / 2**20:.2f}", gib(c.sent), *times)
            if c.sent >= 2**20 or c.in_open_loop:
                table.add_row(phase.name, kernels, kind, *sizes)
    return table


def _time(plan: Plan, config: PlanConfig) -> Table:
    lengths = f"{plan.response_tokens:,.0f} tokens (mean, {config.response_law})"
    headings = "phase", "calls", "PFLOP", "compute", "memory", "links", "host", "at best", "exposed", "predicted"
    table = _table(f"seconds of a GRPO step, responses of {lengths}", *headings)
    for phase in plan.phases:
        bounds, predicted = phase.bounds(plan.chip, plan.devices), phase.predicted(plan.chip, plan.devices)
        calls = str(phase.runs.steps if phase.name == "decode" else phase.runs.calls)
        cells = (f"{seconds:.2f}" for seconds in (*bounds.values(), max(bounds.values()), phase.exposed, predicted))
        table.add_row(phase.name, calls, f"{phase.cost.flops / 1e15:.1f}", *cells)
    table.add_section()
    flops = f"{sum(phase.cost.flops for phase in plan.phases) / 1e15:.1f}"
    total = plan.seconds
    sums = (f"{total[name]:.2f}" for name in ("bound", "exposed", "predicted"))
    table.add_row("a step", "", flops, "", "", "", "", *sums)
    steps, of = config.steps, ""
    if config.epochs:  # a plan reads no questions, so it assumes a thousand
        steps = steps_of(config.epochs, 1000, config.grpo.prompts_per_step)
        of = f": epochs {config.epochs:g} over 1,000 questions"
    best, predicted_hours = (f"{total[name] * steps / 3600:.1f} h" for name in ("bound", "predicted"))
    table.add_row(f"{counted(steps, 'step')}{of}", *[""] * 6, best, "", predicted_hours)
    return table
