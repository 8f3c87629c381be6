"""Checks the judge of structure by one sample, sent as the run would send it."""

import logging
import os
import time
from collections.abc import Iterator
from logging.handlers import BufferingHandler
from pathlib import Path

from socialr1_jax.training.doctor.data import QUESTION, STORY
from socialr1_jax.training.doctor.line import DoctorConfig, Line, NotChecked, good_or

JUDGE_SECONDS = 20.0  # that a judge gets for one answer
_THOUGHTS = "Ann saw the ball go into the box. She did not see Ben move it, so she still believes it is there."
_RUBRIC = "take a model that follows instructions, or raise rewards.structure.max_tokens so that its answer is whole"
_ADDRESS = "that is no chat completion: rewards.structure.base_url must go up to /v1: {listed}"
_FIXES = {  # of the causes of no grade
    "connection": "no server at base_url: start it or correct base_url; this must succeed from here: {listed}",
    "timeout": "a server that is alive answers this at once: {listed}; a slow model needs a smaller max_tokens",
    "html": _ADDRESS,
    "not_json": _ADDRESS,
    "http_400": "the server refuses the request: correct rewards.structure.options and max_tokens",
    "http_429": "too many requests, or no credit left: look at the account's limits; rewards.structure has its own",
    "token_limit": "raise rewards.structure.tokens_per_minute, which one call passes",
    **dict.fromkeys(("no_answer", "unreadable", "contradictory", "no_score", "out_of_range"), _RUBRIC),
    "refusal": "the model declined: take another judge",
}


def check_judge(config: DoctorConfig) -> Iterator[Line]:
    structure = config.rewards.structure
    if not config.rewards.uses.structure or structure.judge != "endpoint":
        judge = structure.judge if config.rewards.uses.structure else "none"
        raise NotChecked(f"this run asks no server (judge {judge}, rewards.preset {config.rewards.preset})")
    if structure.offline:
        there = Path(structure.cache).is_dir()
        found = f"answers from the cache alone; {structure.cache} is {'there' if there else 'no folder'}"
        fix = "set rewards.structure.cache to a folder of answers, or rewards.structure.offline=false"
        yield good_or("problem", "judge", there, found, fix)
        return
    from socialr1_jax.rewards.verdict import JudgeRefused

    address, variable = structure.base_url, structure.api_key_env
    listed = f'curl -H "Authorization: Bearer ${variable}" {address}/models'
    started = time.monotonic()
    try:
        grade, cause, warnings = _ask(config)
    except JudgeRefused as error:
        fix = f"put a good key into {variable}, and set rewards.structure.model to one that this lists: {listed}"
        yield Line("judge", "problem", str(error), fix)
        return
    given = "no grade" if cause else f"a sample the grade {grade:.2f}"
    found = f"{structure.model} at {address} gave {given} in {time.monotonic() - started:.1f} s"
    key = f"{variable} is {'set' if os.environ.get(variable, '').strip() else 'not set'}"
    fix = _FIXES.get(cause, "look at the server's log, and correct rewards.structure by it")
    report = "; ".join([f"{found}: {cause}" if cause else found, key, *warnings])
    yield good_or("problem", "judge", not cause, report, fix.format(listed=listed))


def _ask(config: DoctorConfig) -> tuple[float, str, list[str]]:
    """Return the grade of one call, the cause where there is none, and the warnings meanwhile."""
    from socialr1_jax.rewards.endpoint_judge import EndpointJudge

    structure = config.rewards.structure
    seconds = min(JUDGE_SECONDS, structure.call_timeout)
    once = {"retries": 0, "call_timeout": seconds, "deadline": seconds, "cache": ""}
    judge = EndpointJudge(structure.model_copy(update=once))
    log, heard = logging.getLogger("socialr1_jax"), BufferingHandler(100)
    log.addHandler(heard)  # else Python prints warnings into the lines
    try:
        graded = judge.submit(STORY, QUESTION, _THOUGHTS).result(timeout=seconds + 1)
        grade, cause = graded.score, graded.cause
    except TimeoutError:
        grade, cause = float("nan"), "timeout"
    finally:
        log.removeHandler(heard)
        judge.close()
    return grade, cause, [" ".join(record.getMessage().split()) for record in heard.buffer]
