"""Find settings that make a run fit; every proposal is checked by compiling it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from socialr1_jax.config.run import PlanConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.plan.phase import DoesNotFit, Part
from socialr1_jax.plan.plan import Plan, make_plan
from socialr1_jax.plan.tables import print_plan
from socialr1_jax.runtime.chips import NODE, parse_topology
from socialr1_jax.runtime.files import write_json
from socialr1_jax.runtime.terminal import gib, remark

_TIMES = (2, 4, 8)  # multiples of the topology's devices that are tried
# The settings that move arrays to the host's memory.
_HOST = {"reference": "grpo.reference_memory", "moments": "optimizer.moments_memory"}

Changes = Mapping[str, Any]  # dotted setting -> value


def print_plan_and_advice(config: PlanConfig) -> int:
    """Print a run's plan, its problems and changes that make it fit; return exit status 1 if it does not fit."""
    refused: DoesNotFit | None = None
    if config.json and Path(config.json).is_dir():  # compiling takes minutes
        raise ConfigError(f"json: {config.json} is a folder; give a file in it")
    try:
        plan = make_plan(config)
        print_plan(plan, config)
    except DoesNotFit as error:
        plan, refused = make_plan(config, ()), error
        remark(str(error))
    if config.json:
        about = {"model": config.model.path or config.model.random, "topology": config.topology}
        write_json(Path(config.json), about | {"response_law": config.response_law} | plan.record())
    for problem in plan.problems:
        remark(problem)
    if too_large := [refused.part] if refused else plan.parts_too_large:
        remark("looking for what would fit; each proposal is compiled")
    for line in advice(config, plan, too_large):
        remark(line)
    return 1 if refused or plan.problems else 0


def advice(
    config: PlanConfig, plan: Plan, parts: Iterable[Part], make: Callable[..., Plan] = make_plan
) -> Iterator[str]:
    """Yield one line for each part of a step, rollout or update, that does not fit.

    The line names settings with which the part fits and the memory they leave free, or the obstacle. Changes of
    settings are tried first, the mildest before others, then two, four and eight times the devices. Of alternatives the
    one with the least predicted seconds is taken.

    Args:
        plan: of `config`, without phases that the compiler rejected.
        make: compiles the phases of some parts, as `make_plan` does.
    """
    for part in parts:
        yield _Search(config, plan, part, make).line()


@dataclass(frozen=True)
class _Search:
    config: PlanConfig
    plan: Plan
    part: Part
    make: Callable[..., Plan]

    @property
    def _row(self) -> int:
        """Tokens of the longest row."""
        return self.config.data.max_prompt_tokens + self.config.sampling.max_new_tokens

    def line(self) -> str:
        resident, allowed = sum(self.plan.resident.values()), self.plan.allowed
        alone = f"{_listed(self.plan.resident)} alone take {gib(resident)} GiB a device"
        if resident > allowed:
            # The resident arrays are split over fsdp and tensor, not over replicas.
            replicas = self.config.mesh.replica
            devices = replicas * -(-resident * self.plan.devices // (replicas * max(1, allowed)))
            return (
                f"{alone}, and {gib(allowed)} GiB may be used: no batch size fits; it needs "
                f"{self._with_host(allowed - resident)}at least {devices:,} such devices, or a smaller model"
            )
        least: Changes = {}
        of_part = [phase for phase in self.plan.phases if phase.part == self.part]
        smallest = max(of_part, key=lambda phase: phase.peak, default=None)
        tried: list[Changes] = [{}]
        for alternatives in self._settings():
            new = [changes for changes in alternatives if changes not in tried]
            tried += new
            planned = [(changes, plan) for changes in new if (plan := self._planned(changes))]
            if fitting := [pair for pair in planned if pair[1].free >= 0]:
                return _fits(*min(fitting, key=lambda pair: pair[1].seconds.get("predicted", 0.0)))
            for changes, plan in planned:
                least, smallest = changes, plan.fullest
        row = f"one row of {self._row:,} tokens alone"
        row += f" takes {gib(smallest.peak)} GiB ({smallest.name})" if smallest else " does not fit"
        # CPU devices share the memory of one host, so more of them do not help.
        factors = [] if self.plan.chip.platform == "cpu" else _TIMES
        for factor in factors:
            more = {**least, **self._devices(factor)}
            plan = self._planned(more)
            if plan and plan.free >= 0:
                return f"{row}; {alone}. {_fits(more, plan)}"
        return (
            f"{row}; {alone}. "
            + (f"{factors[-1]} times the devices do not help: " if factors else "")
            + "Lower sampling.max_new_tokens or data.max_prompt_tokens, or take a smaller model (not tried)"
        )

    def _with_host(self, free: int) -> str:
        """Return the arrays whose move to the host leaves free memory, as settings, the least traffic first."""
        for moved in (("reference",), ("moments",), ("reference", "moments")):
            left = free + sum(self.plan.resident.get(name, 0) for name in moved)
            if left >= 0 and set(moved) <= set(self.plan.resident):
                return f"{' '.join(f'{_HOST[name]}=host' for name in moved)} (then {gib(left)} GiB are left), or "
        return ""

    def _settings(self) -> Iterator[Sequence[Changes]]:
        """Yield settings that need less memory on the same devices, as alternatives, the mildest before others.

        The last one needs the least.
        """
        config = self.config
        names = self.plan.resident if self.plan.chip.platform != "cpu" else ()  # whose memory is the host's
        host = [{_HOST[name]: "host"} for name in names if name in _HOST]
        all_host: Changes = {name: value for changes in host for name, value in changes.items()}
        if self.part == "update":
            rows = config.grpo.micro_batch_tokens // self._row
            sizes = dict.fromkeys(size for size in (rows // 2, 1) if 0 < size < rows)
            fewer: list[Changes] = [{"grpo.micro_batch_tokens": self._row * size} for size in sizes]
            remat: list[Changes] = [{"model.remat": "everything"}] if config.model.remat != "everything" else []
            fewest, recomputed = (changes[-1] if changes else {} for changes in (fewer, remat))
            yield [*fewer, *host, *remat]
            yield [all_host, {**fewest, **recomputed}]
            yield [{**all_host, **fewest}]
            yield [{**all_host, **fewest, **recomputed}]
            return
        rows = min(config.sampling.max_rows, config.grpo.prompts_per_step * config.sampling.group_size)
        sizes = dict.fromkeys(size for size in (rows // 2, rows // 8, 1) if 0 < size < rows)
        smaller: list[Changes] = [{"sampling.max_rows": size} for size in sizes]
        yield smaller[:1]
        yield host  # the update's time is not part of this plan
        yield from ([changes] for changes in smaller[1:])
        fsdp = {"mesh.fsdp": config.mesh.fsdp // 2} if config.mesh.fsdp else {}
        least = {**(smaller[-1] if smaller else {}), **all_host}
        yield [least, {**least, "mesh.tensor": 2 * config.mesh.tensor, **fsdp}]

    def _devices(self, factor: int) -> Changes:
        name = self.config.topology.partition(":")[0]
        _, shape = parse_topology(self.config.topology)
        if self.plan.chip.platform == "cuda":
            devices = self.plan.devices * factor
            grown = [devices] if devices <= NODE else [-(-devices // NODE), NODE]
        else:
            grown = list(shape)
            for _ in range(factor.bit_length() - 1):
                grown[grown.index(min(grown))] *= 2
        fsdp = {"mesh.fsdp": self.config.mesh.fsdp * factor} if self.config.mesh.fsdp else {}
        return {"topology": f"{name}:{'x'.join(map(str, grown))}", **fsdp}

    def _planned(self, changes: Changes) -> Plan | None:
        """Return the plan of the part with these changes, or None if they are invalid or the compiler rejects them.

        Arrays on the host change no program, so nothing is compiled where they free too little.
        """
        moved = sum(self.plan.resident[name] for name, setting in _HOST.items() if setting in changes)
        peaks = [phase.peak for phase in self.plan.phases if phase.part == self.part]
        if set(changes) <= set(_HOST.values()) and max(peaks, default=0) - moved > self.plan.allowed:
            return None
        try:
            return self.make(_changed(self.config, changes), (self.part,))
        except (ConfigError, DoesNotFit):
            return None


def _fits(changes: Changes, plan: Plan) -> str:
    text = f"It fits with {_shown(changes)}: {gib(plan.fullest.peak)} GiB a device, {gib(plan.free)} GiB free"
    return text + (f", {plan.seconds['predicted']:.0f} s for this part of a step" if plan.seconds else "")


def _changed(config: PlanConfig, changes: Changes) -> PlanConfig:
    values = config.model_dump()
    for name, value in changes.items():
        section, _, field = name.rpartition(".")
        (values[section] if section else values)[field] = value
    return PlanConfig.model_validate(values)


def _shown(changes: Changes) -> str:
    return " ".join(f"{name}={value}" for name, value in changes.items())


def _listed(resident: Mapping[str, int]) -> str:
    names = list(resident)
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
