"""Print a plan as three tables: memory, traffic and time."""

from rich.table import Table

from socialr1_jax.config.run import PlanConfig
from socialr1_jax.plan.phase import EFFICIENCY
from socialr1_jax.plan.plan import Plan
from socialr1_jax.plan.shapes import mean_response
from socialr1_jax.run.console import Console
from socialr1_jax.run.epochs import steps_of
from socialr1_jax.runtime.terminal import counted, gib


def print_plan(plan: Plan, config: PlanConfig) -> None:
    """Print the tables on standard output, wide enough that no cell wraps."""
    console = Console(width=150)
    console.print(
        f"{config.model.path or config.model.random} on {config.topology}, attention {plan.backend}: "
        f"{gib(plan.memory)} GiB a device, of which the run may take {gib(plan.allowed)}\n"
    )
    console.print(_memory(plan))
    console.print(_traffic(plan))
    if plan.chip.flops:
        console.print(_time(plan, config))
        shares = ", ".join(f"{share:.0%} of the peak in {name}" for name, share in EFFICIENCY.items())
        console.print(
            f"expected: {shares} (compute and memory as on one H200, links assumed); without the judge, evaluations, "
            "checkpoints and compiling\n"
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
    table = _table(
        "between devices, of one call (inside decode's loop: of one token)",
        "phase",
        "attention",
        "collective",
        "times",
        "devices",
        "MiB of one",
        "GiB sent in all",
    )
    for phase in plan.phases:
        kernels = ", ".join(phase.kernels) or "-"
        if not phase.collectives:
            table.add_row(phase.name, kernels, "none")
        for c in phase.collectives:
            kind = ("async " if c.asynchronous else "") + c.kind + (" in the loop" if c.in_open_loop else "")
            sizes = (str(c.times), str(c.group), f"{c.result_bytes / 2**20:.2f}", gib(c.sent))
            if c.sent >= 2**20 or c.in_open_loop:
                table.add_row(phase.name, kernels, kind, *sizes)
    return table


def _time(plan: Plan, config: PlanConfig) -> Table:
    table = _table(
        f"seconds of a GRPO step, responses of {mean_response(config):,} tokens",
        "phase",
        "calls",
        "PFLOP",
        "compute",
        "memory",
        "links",
        "at best",
        "expected",
    )
    best = expected = 0.0
    for phase in plan.phases:
        bounds, likely = phase.seconds(plan.chip, plan.devices), phase.expected(plan.chip, plan.devices)
        best, expected = best + max(bounds.values()), expected + likely
        calls = str(phase.steps if phase.steps > 1 else phase.calls)
        cells = (f"{seconds:.2f}" for seconds in (*bounds.values(), max(bounds.values()), likely))
        table.add_row(phase.name, calls, f"{phase.cost.flops / 1e15:.1f}", *cells)
    table.add_section()
    flops = f"{sum(phase.cost.flops for phase in plan.phases) / 1e15:.1f}"
    table.add_row("a step", "", flops, "", "", "", f"{best:.2f}", f"{expected:.2f}")
    steps, of = config.steps, ""
    if config.epochs:  # a plan reads no questions, so it assumes a thousand
        steps = steps_of(config.epochs, 1000, config.grpo.prompts_per_step)
        of = f": epochs {config.epochs:g} over 1,000 questions"
    hours = (f"{seconds * steps / 3600:.1f} h" for seconds in (best, expected))
    table.add_row(f"{counted(steps, 'step')}{of}", "", "", "", "", "", *hours)
    return table
