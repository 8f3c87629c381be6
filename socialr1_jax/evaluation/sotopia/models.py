"""Speakers for SOTOPIA: a local model with continuous batching, and a model behind an endpoint."""

from collections.abc import Mapping
from concurrent import futures
from dataclasses import replace
from functools import partial
from typing import Any

from socialr1_jax.chat.answers import Reply
from socialr1_jax.evaluation.request import Messages
from socialr1_jax.evaluation.respondents import Asked, Endpoint, LocalModel
from socialr1_jax.evaluation.scoring import FAILED
from socialr1_jax.evaluation.sotopia.episode import Utterance
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.rewards.parsing import without_thoughts


class LocalSpeaker:
    """A `Speaker` that decodes `rows` turns at once on local devices.

    Prompts longer than `prompt_tokens` or the model's positions are not asked; their reply is marked truncated. memory:
    bytes per device; None uses all free memory. Raises ValueError if it does not suffice.
    """

    def __init__(
        self, model: LocalModel, *, new_tokens: int, prompt_tokens: int, rows: int, memory: int | None = None
    ) -> None:
        import jax

        from socialr1_jax.sampling import Feed

        self._longest = min(prompt_tokens, model.positions - new_tokens)
        if self._longest < 1:
            raise BenchmarkError(f"a reply of {new_tokens} tokens takes all {model.positions} positions of the model")
        self._model, self._on = model, partial(jax.set_mesh, model.mesh)
        engine = replace(model.engine, memory=memory, share_prefixes=False)
        with self._on():
            self._feed = Feed(engine, model.sampling(new_tokens), prompt_tokens=self._longest, rows=rows)
        self._asked: dict[int, str] = {}
        self._too_long: list[str] = []
        self.busy: list[float] = []  # share of busy rows in segments with enough turns to fill all

    @property
    def slots(self) -> int:
        return self._feed.rows

    def submit(self, key: str, messages: Messages, seed: int) -> None:
        (tokens,) = self._model.tokens([messages])
        if len(tokens) > self._longest:
            self._too_long.append(key)
            return
        with self._on():
            self._asked[self._feed.add(tokens, seed)] = key

    def poll(self, wait: float) -> list[tuple[str, Utterance]]:
        found = [(key, Utterance("", truncated=True)) for key in self._too_long]
        self._too_long = []
        if self._asked:
            full = len(self._asked) >= self._feed.rows
            with self._on():
                ended = self._feed.step()
            if full:
                self.busy.append(self._feed.busy / self._feed.rows)
            found += [(self._asked.pop(number), spoken(self._model.reply(one))) for number, one in ended]
        return found


class EndpointSpeaker:
    """A `Speaker` with up to `concurrency` calls to an endpoint in flight.

    schema: JSON Schema of the replies, for servers with structured output. `poll` raises BenchmarkError if the server
    rejects every request.
    """

    def __init__(self, endpoint: Endpoint, *, new_tokens: int, schema: Mapping[str, Any] | None = None) -> None:
        self.slots = endpoint.concurrency
        self._endpoint, self._new_tokens, self._schema = endpoint, new_tokens, schema
        self._calls: dict[futures.Future[Reply], str] = {}

    def submit(self, key: str, messages: Messages, seed: int) -> None:
        """See `Speaker`; the endpoint derives its own seed from the key."""
        self._calls[self._endpoint.start(Asked(key, messages, self._new_tokens), schema=self._schema)] = key

    def poll(self, wait: float) -> list[tuple[str, Utterance]]:
        ended, _ = futures.wait(self._calls, timeout=wait, return_when=futures.FIRST_COMPLETED)
        return [(self._calls.pop(call), spoken(self._endpoint.result(call))) for call in ended]


def spoken(reply: Reply) -> Utterance:
    """Strip the thoughts from a reply; text is "" and truncated if they do not end."""
    if reply.finish_reason in FAILED:
        why = f"{reply.cause} {reply.reason}" if reply.cause else "not finite numbers"
        return Utterance("", error=f"no reply: {why}")
    text = without_thoughts(reply.text)
    return Utterance(text or "", truncated=text is None or reply.finish_reason == "length")
