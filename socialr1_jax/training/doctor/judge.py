"""Checks the judge of structure by a sample, sent as the run would send it, and that reward functions can be had."""

import math
import os
import time
from collections.abc import Iterator

from socialr1_jax.training.doctor.line import DoctorConfig, Line, NotChecked, good_or

JUDGE_SECONDS = 20.0  # that a judge gets for one answer


def check_functions(config: DoctorConfig) -> Iterator[Line]:
    from socialr1_jax.rewards.extra import load_extras

    if not config.rewards.extra:
        raise NotChecked("this run has no reward functions of your own (rewards.extra)")
    load_extras(config.rewards)
    yield Line("own rewards", "ok", ", ".join(f"{name}: {one.function}" for name, one in config.rewards.extra.items()))


def check_judge(config: DoctorConfig) -> Iterator[Line]:
    structure = config.rewards.structure
    if not config.rewards.uses.structure or structure.judge != "endpoint":
        judge = structure.judge if config.rewards.uses.structure else "none"
        raise NotChecked(f"this run asks no server (judge {judge}, rewards.preset {config.rewards.preset})")
    from socialr1_jax.rewards.judge_probe import ask_sample, judge_fault

    if structure.offline:
        fault = judge_fault(structure)
        found = f"answers from the cache alone; {structure.cache} is {'no folder' if fault else 'there'}"
        fix = "set rewards.structure.cache to a folder of answers, or rewards.structure.offline=false"
        yield good_or("problem", "judge", not fault, found, fix)
        return
    once = {"retries": 0, "call_timeout": min(JUDGE_SECONDS, structure.call_timeout)}
    started = time.monotonic()
    try:
        sampled = ask_sample(structure.model_copy(update=once))
    except ValueError as error:
        yield Line("judge", "problem", str(error), "correct rewards.structure.rubric")
        return
    grade = f"{structure.model} at {structure.base_url} gave a sample the grade {sampled.score:.2f}"
    key = f"{structure.api_key_env} is {'set' if os.environ.get(structure.api_key_env, '').strip() else 'not set'}"
    found = f"{sampled.fault or grade}; {time.monotonic() - started:.1f} s; {key}"
    yield good_or("problem", "judge", not math.isnan(sampled.score), found, sampled.fix)
