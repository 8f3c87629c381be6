"""Ask an endpoint judge for one grade, so that a run with a broken judge ends before it loads anything."""

import logging
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path

from socialr1_jax.chat.answers import Reply
from socialr1_jax.chat.client import ChatClient, ChatRefused
from socialr1_jax.config.rewards import StructureConfig
from socialr1_jax.rewards.endpoint_judge import NAMES
from socialr1_jax.rewards.rubric import answer_code, parse_verdict, read_rubric, rubric_messages
from socialr1_jax.runtime.terminal import printable

STORY = "Ann puts a ball into the box and leaves. Ben moves the ball into the basket. Ann comes back."
QUESTION = "Where will Ann look for the ball?"
THOUGHTS = (  # tried in order until one is graded, since a judge may fail on one of them by chance
    "Ann saw the ball go into the box. She did not see Ben move it, so she still believes it is there.",
    "Ann put the ball into the box. She was away when it was moved, so she thinks that it is in the box.",
    "Ben moved the ball while Ann was out. She cannot know that, so she will look into the box.",
)
_GRACE = 2.0  # seconds beyond `call_timeout` that a sample may take, retries included
_SHOWN = 200  # characters of a reply
_RUBRIC = "take a model that follows instructions, or raise rewards.structure.max_tokens so that its answer is whole"
_ADDRESS = "that is not a chat completion: rewards.structure.base_url must go up to /v1: {listed}"
_FIXES = {  # by cause of a missing grade
    "connection": "no server at base_url: start it or correct base_url; this must succeed from here: {listed}",
    "timeout": "a server that is alive answers this at once: {listed}; a slow model needs a larger call_timeout",
    "html": _ADDRESS,
    "not_json": _ADDRESS,
    "http_400": "the server refuses the request: correct rewards.structure.options and max_tokens",
    "http_429": "too many requests, or no credit left: look at the account's limits; rewards.structure has its own",
    "token_limit": "raise rewards.structure.tokens_per_minute, which one call passes",
    **dict.fromkeys(("no_answer", "unreadable", "contradictory", "no_score", "out_of_range"), _RUBRIC),
    "refusal": "the model declined: take another judge",
}
_OWN_FIX = "look at the server's log, and correct rewards.structure by it"


def judge_fault(config: StructureConfig) -> str:
    """Return why the run's judge gives no grade, in one line with its address and the fix, or "" if it does.

    Asks the server at most three times, for `call_timeout` seconds each, as a run would, but without the cache. Judges
    without a server have no fault; `offline` needs only the cache folder.
    """
    if config.judge != "endpoint":
        return ""
    if config.offline:
        exists = Path(config.cache).is_dir()
        return "" if exists else f"offline takes answers from {config.cache}, which is not a folder; set cache to one"
    variable, address = config.api_key_env, config.base_url
    listed = f'curl -H "Authorization: Bearer ${variable}" {address}/models'
    parameters = {"temperature": config.temperature, "max_tokens": config.max_tokens}
    try:
        rubric = read_rubric(config.rubric)
        with _unlogged(), closing(ChatClient(config, NAMES)) as chat:
            for thoughts in THOUGHTS:
                messages = rubric_messages(STORY, QUESTION, thoughts, rubric)
                reply = _reply(chat.ask(messages, parameters), config.call_timeout)
                cause = reply.cause or parse_verdict(reply.text, answer_code(STORY, QUESTION, thoughts)).cause
                if not cause:
                    return ""
                if reply.cause not in ("", "refusal", "refused"):  # a server error, which the client has retried
                    break
    except ChatRefused as error:
        fix = f"put a good key into {variable}, and set rewards.structure.model to one that this lists: {listed}"
        return f"{error}; {fix}"
    except (ValueError, ImportError) as error:  # an unusable rubric, or no client installed
        return str(error)
    cut = f", cut off at max_tokens {config.max_tokens}" if reply.finish_reason == "length" else ""
    reason = reply.reason if reply.cause else f'it replied "{printable(reply.text.strip(), _SHOWN)}"{cut}'
    fix = _FIXES.get(cause, _OWN_FIX).format(listed=listed)
    return f"{printable(config.model, 100)} at {address} gave no grade ({cause}): {reason}; {fix}"


def _reply(call: Future[Reply], seconds: float) -> Reply:
    """Return the reply of a call; cancel the call after `seconds` and a grace period."""
    try:
        return call.result(timeout=seconds + _GRACE)
    except TimeoutError:
        call.cancel()
        return Reply("", "error", 0, "timeout", f"no whole answer within {seconds:g} s")


@contextmanager
def _unlogged() -> Iterator[None]:
    """Suppress the client's log within this block, since the fault reports the failure."""
    log = logging.getLogger("socialr1_jax.chat.client")
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = False
