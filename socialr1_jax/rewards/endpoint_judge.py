"""Judge structure with a model behind an OpenAI-compatible chat server: OpenAI, vLLM, SGLang, llama.cpp and others.

Each verdict has the judge's score or the cause of a missing one: the causes of `chat/client.py` and
`rubric.parse_verdict`, and

    deadline     no reply `deadline` seconds after finish     not_cached   `offline`, and not in the cache
    interrupted  the run is stopping                          closed       the judge was closed
"""

import logging
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait

from socialr1_jax.chat.answers import Reply, SettingNames
from socialr1_jax.chat.client import ChatClient, ChatRefused
from socialr1_jax.config.rewards import StructureConfig
from socialr1_jax.rewards.judge_cache import JudgeCache, answer_key
from socialr1_jax.rewards.rubric import answer_code, parse_verdict, read_rubric, rubric_messages
from socialr1_jax.rewards.verdict import Judge, JudgeRefused, Verdict
from socialr1_jax.runtime.interrupt import NEVER, Stop

log = logging.getLogger(__name__)
NAMES = SettingNames(*(f"rewards.structure.{name}" for name in ("model", "base_url", "options")))
_POLL = 0.2  # seconds between two checks of the stop signal


class EndpointJudge(Judge):
    """Judge that asks the server at `config.base_url`; thread-safe. With a wrong key or model every future fails.

    Raises JudgeRefused if the key's variable is not set (a server on this machine needs no key), ImportError without
    the openai package, ValueError for an unusable rubric file.
    """

    def __init__(self, config: StructureConfig) -> None:
        self._config, self._rubric = config, read_rubric(config.rubric)
        self._cache = JudgeCache(config.cache) if config.cache else None
        try:
            self._chat = None if config.offline else ChatClient(config, NAMES)
        except ChatRefused as error:
            raise JudgeRefused(str(error)) from None
        self._defaults = {"temperature": config.temperature, "max_tokens": config.max_tokens}
        self._lock = threading.Lock()  # guards the next three attributes
        self._open: dict[Future[Verdict], Future[Reply] | None] = {}
        self._counts: Counter[str] = Counter()
        self._closed = False
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="judge")

    def submit(self, story: str, question: str, thoughts: str) -> Future[Verdict]:
        """Return a future of the verdict; see `verdict.Judge`. After a refusal it holds JudgeRefused."""
        messages = rubric_messages(story, question, thoughts, self._rubric)
        code, verdict = answer_code(story, question, thoughts), Future[Verdict]()
        parameters = self._config.parameters(self._defaults)
        key = answer_key("endpoint", self._config.model, self._rubric.version, messages, parameters)
        stored = self._cache.get(key) if self._cache else None
        cached = parse_verdict(stored or "", code)
        hit = not cached.cause
        with self._lock:
            self._open[verdict] = None
            self._counts["cache_hits"] += hit
        if self._closed:
            self._settle(verdict, Verdict.unscorable("closed"))
        elif hit:
            if self._chat:
                self._chat.answered_before()
            self._settle(verdict, cached)
        elif self._chat is None:
            self._settle(verdict, Verdict.unscorable("not_cached"))
        else:
            call = self._chat.ask(messages, self._defaults)
            with self._lock:
                self._open[verdict] = call
            if call.done():
                self._read(call, code, key, verdict)
            else:
                call.add_done_callback(lambda call: self._readers.submit(self._read, call, code, key, verdict))
        return verdict

    def finish(self, stop: Stop = NEVER) -> None:
        end = time.monotonic() + self._config.deadline
        with self._lock:
            late = set(self._open)
        while late and not stop.asked and (left := end - time.monotonic()) > 0:
            _, late = wait(late, timeout=min(left, _POLL))
        self._settle_all(late, "interrupted" if stop.asked else "deadline")

    def counters(self) -> dict[str, float]:
        """Return counts since the last call: `ChatClient.counters`, `cache_hits`, `cost`, responses `failed/CAUSE`."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        numbers = {"cache_hits": float(counts.pop("cache_hits", 0))}
        numbers |= self._chat.counters() if self._chat else {"calls": 0.0, "tokens_in": 0.0, "tokens_out": 0.0}
        prices = {"tokens_in": self._config.price_input, "tokens_out": self._config.price_output}
        numbers["cost"] = sum(numbers[name] * price for name, price in prices.items()) / 1_000_000
        return numbers | {name: float(count) for name, count in sorted(counts.items())}

    def close(self) -> None:
        self._closed = True
        with self._lock:
            late = set(self._open)
        self._settle_all(late, "closed")
        if self._chat:
            self._chat.close()
        self._readers.shutdown(wait=True)

    def _read(self, call: Future[Reply], code: str, key: str, verdict: Future[Verdict]) -> None:
        """Resolve a verdict from the server's reply, and cache the reply if it holds a grade."""
        try:
            reply = call.result()
        except (ChatRefused, CancelledError):
            refused = self._chat.refused if self._chat else None
            self._settle(verdict, JudgeRefused(str(refused)) if refused else Verdict.unscorable("closed"))
            return
        graded = Verdict.unscorable(reply.cause) if reply.cause else parse_verdict(reply.text, code)
        if self._cache and not graded.cause:
            try:
                self._cache.put(key, reply.text)
            except OSError as error:  # the score is still valid
                log.warning("the judge's answer could not be cached in %s: %s", self._cache.folder, error.strerror)
        self._settle(verdict, graded)

    def _settle_all(self, late: set[Future[Verdict]], cause: str) -> None:
        for verdict in late:
            call = self._settle(verdict, Verdict.unscorable(cause))
            if call:
                call.cancel()

    def _settle(self, future: Future[Verdict], verdict: Verdict | JudgeRefused) -> Future[Reply] | None:
        """Resolve a future and return its call; drop the result if the future is already resolved."""
        with self._lock:
            if future not in self._open:
                return None
            call = self._open.pop(future)
            if cause := "refused" if isinstance(verdict, JudgeRefused) else verdict.cause:
                self._counts[f"failed/{cause}"] += 1
        if isinstance(verdict, JudgeRefused):
            future.set_exception(verdict)
        else:
            future.set_result(verdict)
        return call
