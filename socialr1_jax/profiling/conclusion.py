"""Three sentences on a profile: what takes the time, what bounds it, and what to try."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from socialr1_jax.profiling.page import percent_text, seconds_text
from socialr1_jax.profiling.summary import UNNAMED

_CORE = "attend"  # the block of scores, softmax and values
_NAMES = {
    "matmul": "matrix products",
    "attention": "the core of attention",
    "collective": "collectives",
    "other": "other ops",
    "idle": "an idle device",
}
_SMALL = 0.1  # a smaller share of a step is not worth a second proposal
_FAR = 1.25  # FLOP done per FLOP needed from which padding and recomputation count


class _Cause(NamedTuple):
    seconds: float  # of a step
    proposal: str
    reason: str


def conclusion(summary: Mapping[str, Any]) -> list[str]:
    """Return three sentences over the figures of profile.json.

    A phase's time is taken apart into what its ops need at least, what they take beyond that, in attention and
    elsewhere, collectives, and an idle device. The proposals are for the largest of these parts.
    """
    whole, phases = summary["step"]["seconds"], summary["phases"]
    order = sorted(phases, key=lambda name: -phases[name]["seconds"])
    return [_time(summary, order, whole), _bound(summary, order[0], phases[order[0]]), _proposals(summary, whole)]


def _time(summary: Mapping[str, Any], order: list[str], whole: float) -> str:
    phases = summary["phases"]
    first, *others = order
    seconds = phases[first]["seconds"]
    if not others:
        text = f"{'An' if first[0] in 'aeiou' else 'A'} {first} takes {seconds_text(seconds)}"
    else:
        text = f"The {first} takes {percent_text(seconds / whole)} of a step ({seconds_text(seconds)} of "
        text += f"{seconds_text(whole)}), the {others[0]} {percent_text(phases[others[0]]['seconds'] / whole)}"
    if not summary["ops"]:
        return f"{text}; the trace names no op, so it does not say which work that is."
    kinds = summary["kinds"] | {"idle": summary["step"]["idle_seconds"]}
    kind = max(kinds, key=lambda name: kinds[name])
    return f"{text}; {percent_text(kinds[kind] / whole)} of all time is {_NAMES[kind]}."


def _bound(summary: Mapping[str, Any], name: str, phase: Mapping[str, Any]) -> str:
    idle = seconds_text(phase["idle_seconds"])
    if phase["roofline_share"] is None:
        return f"The model's arithmetic sets no bound for the {name}; the device is idle for {idle} of it."
    flops, moved = _needed(summary, phase)
    text = (
        f"At the measured peaks the {name} needs at least {seconds_text(phase['bound_seconds'])}, bound by "
        f"{'FLOP' if flops >= moved else 'bytes'} (FLOP {seconds_text(flops)}, bytes {seconds_text(moved)}): it "
        f"reaches {percent_text(phase['roofline_share'])} of its roofline"
    )
    if not summary["ops"] or not phase["gaps"]:
        return f"{text}."
    gap = phase["gaps"][0]
    return (
        f"{text}, and its largest gap is {gap['what']} ({seconds_text(gap['seconds'])} against a bound of "
        f"{seconds_text(gap['bound_seconds'])})."
    )


def _proposals(summary: Mapping[str, Any], whole: float) -> str:
    compiled = sum(one["seconds"] for one in summary["compilations"])
    if compiled > _SMALL * whole * summary["steps"]:
        return (
            f"Try: more traced steps (now steps={summary['steps']}), for {seconds_text(compiled)} of these went into "
            "compiling and the shares are not those of a long run."
        )
    if not summary["ops"]:
        return "Try: nothing follows from these figures, since the trace names no op; open the trace itself."
    causes = sorted(
        (cause for name, phase in summary["phases"].items() for cause in _causes(summary, name, phase)),
        key=lambda cause: -cause.seconds,
    )
    seconds, reasons = dict[str, float](), dict[str, str]()
    for cause in causes:
        seconds[cause.proposal] = seconds.get(cause.proposal, 0.0) + cause.seconds
        reasons.setdefault(cause.proposal, cause.reason)
    first, *others = sorted(seconds, key=lambda proposal: -seconds[proposal])[:2]
    kept = [first, *(proposal for proposal in others if seconds[proposal] > _SMALL * whole)]
    return f"Try: {'; then '.join(f'{proposal}: {reasons[proposal]}' for proposal in kept)}."


def _causes(summary: Mapping[str, Any], name: str, phase: Mapping[str, Any]) -> Iterator[_Cause]:
    """Yield the parts of a phase's time, each with what could make it smaller."""
    blocks = {block: one for block, one in phase["blocks"].items() if one["seconds"] > 0}
    beyond = {block: max(0.0, one["seconds"] - one["bound_seconds"]) for block, one in blocks.items()}
    least = sum(one["seconds"] - beyond[block] for block, one in blocks.items())
    core, collectives = beyond.pop(_CORE, 0.0), phase["kinds"]["collective"]
    outside = max(0.0, sum(beyond.values()) - collectives)
    most = max(beyond, key=lambda block: beyond[block], default=UNNAMED)
    idle, trains = phase["idle_seconds"], name in ("old", "reference", "update")
    sizes, settings = summary["sizes"], summary["settings"]
    several = trains and sizes["micro_batches"] > sizes["updates"]
    fewer = (
        f"a larger grpo.micro_batch_tokens (now {settings['grpo.micro_batch_tokens']}, "
        f"{sizes['micro_batches']} micro-batches a step)"
    )
    more = ""  # sizes of a rollout are known only where one was measured
    if name == "rollout" and sizes["responses"] > sizes["rows_at_once"]:
        more = (
            f"more rows at once (sampling.max_rows={settings['sampling.max_rows']}; "
            f"{sizes['rows_at_once']} of {sizes['responses']} responses are decoded together)"
        )
    done = phase["flops"] / phase["needed_flops"] if phase["needed_flops"] else 0.0
    again = name == "update" and settings["model.remat"] == "everything" and done > _FAR
    remat = f"model.remat=attention where memory allows ({done:.2f} times the FLOP needed are done)"
    flops, moved = _needed(summary, phase)

    reason = f"the device is idle for {seconds_text(idle)} of the {name}"
    segment = settings["sampling.segment_tokens"]
    if name == "rollout" and sizes["longest_response"] > segment:
        proposal = f"a larger sampling.segment_tokens (now {segment}; the host has its turn between segments)"
    elif name == "reward" and settings["rewards.structure.judge"] == "endpoint":
        calls = settings["rewards.structure.concurrency"]
        proposal = f"a faster judge or more calls at once (rewards.structure.concurrency={calls})"
    else:
        proposal = fewer if several else "the host's lines in the trace, since no setting is known to help"
    yield _Cause(idle, proposal, reason)

    proposal = fewer if several else "a mesh with fewer parts where memory allows"
    yield _Cause(collectives, proposal, f"collectives take {seconds_text(collectives)} of the {name}")

    if summary["platform"] == "gpu" and settings["model.attention"] == "xla":
        proposal = "cuDNN's attention (model.dtype=bfloat16 model.attention=cudnn)"
    else:
        proposal = "shorter prompts and responses, since the core of attention grows with both"
    yield _Cause(core, proposal, f"it takes {seconds_text(core)} beyond its bound in the {name}")

    if more:
        proposal = more
    elif several:
        proposal = fewer
    else:
        proposal = remat if again else "the largest ops of the table"
    reason = f"ops outside of {_CORE} take {seconds_text(outside)} beyond their bounds in the {name}, most in {most}"
    yield _Cause(outside, proposal, reason)

    reason = f"{seconds_text(least)} of the {name} is what its ops need at the measured peaks"
    if summary["platform"] != "cpu" and summary["dtype"] == "float32":
        proposal = "model.dtype=bfloat16, which halves the bytes"
    elif name == "rollout" and moved > flops and sizes["decode_weight_bytes"] > sizes["decode_cache_bytes"]:
        responses = sizes["responses"]
        proposal = more or f"more responses a step, since all {responses} share each reading of the weights"
    elif several and moved > flops:
        proposal = fewer
    else:
        proposal = remat if again else "more devices or shorter texts"
    yield _Cause(least, proposal, reason)


def _needed(summary: Mapping[str, Any], phase: Mapping[str, Any]) -> tuple[float, float]:
    """Return the seconds of what the phase needs in FLOP and in bytes, at the measured peaks."""
    peaks = summary["peaks"]
    return phase["needed_flops"] / peaks["flops"], phase["needed_bytes"] / peaks["bytes_per_second"]
