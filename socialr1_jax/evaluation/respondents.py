"""Models that answer a benchmark's prompts: on local devices or behind an OpenAI-compatible server."""

from __future__ import annotations

import copy
import hashlib
import json
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from socialr1_jax.chat.answers import PLAIN_NAMES, Reply, SettingNames
from socialr1_jax.chat.client import ChatClient, ChatRefused
from socialr1_jax.config.evaluation import EvaluateConfig
from socialr1_jax.data.chat_template import tokens_of_chats
from socialr1_jax.evaluation.request import Messages
from socialr1_jax.evaluation.task import BenchmarkError, Decoding
from socialr1_jax.runtime.files import sha256

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from socialr1_jax.models.qwen3 import Qwen3
    from socialr1_jax.sampling import Completion, SamplingParams

_THINK_END = "</think>"


@dataclass(frozen=True)
class Asked:
    """A prompt and the numbers of the samples to draw; `key` seeds the draws.

    With `continuations` nothing is sampled: the message is used as plain text, without a chat template, and the reply
    is a JSON list of the continuations' log-probs.
    """

    key: str
    messages: Messages
    max_new_tokens: int
    samples: tuple[int, ...] = (0,)
    decoding: Decoding | None = None  # None: the configuration's
    continuations: tuple[str, ...] = ()


class _Prompt(NamedTuple):
    tokens: array[int]
    sampling: SamplingParams
    places: list[int]  # indices in `asked` of the equal prompts


class Respondent(Protocol):
    """A model that answers prompts; replies are reproducible by key, sample and settings as far as the model allows."""

    def identity(self) -> dict[str, Any]:
        """Return the JSON-compatible settings that replies depend on besides the prompt, for results and cache keys."""

    def replies(self, asked: Sequence[Asked]) -> Iterator[tuple[int, int, Reply]]:
        """Yield (index, sample, reply) for all prompts and samples, as they finish."""

    def close(self) -> None:
        """Stop the background threads."""


class LocalModel:
    """A Hugging Face model or a run's checkpoint, sampled by the engine on local devices.

    Raises the errors of `load_hf` and `load_policy`.
    """

    def __init__(self, config: EvaluateConfig) -> None:
        import jax

        from socialr1_jax.models.attention_trial import prefill_attention
        from socialr1_jax.run.checkpoints import MANIFEST, read_run
        from socialr1_jax.runtime.mesh import make_mesh
        from socialr1_jax.sampling import Engine
        from socialr1_jax.sampling.text import stop_token_ids
        from socialr1_jax.weights.tokenizer_files import load_tokenizer

        self._config = config
        self.mesh = make_mesh()
        step: int | str = ""
        with jax.set_mesh(self.mesh):
            model, checkpoint = read_model(config.model, config.step, config.dtype, config.ignore_fields, self.mesh)
            if checkpoint:
                step = read_run(checkpoint)["finished"]  # resolves `best` and `latest`
                content = sha256(checkpoint / MANIFEST)[:16]  # the manifest has the checksums of all files
            else:
                content = folder_hash(Path(model.source or config.model))
        self._tokenizer = load_tokenizer(model.source)
        if not self._tokenizer.chat_template:
            raise BenchmarkError(f"{config.model}: its tokenizer has no chat template, so it cannot be evaluated")
        self._stops = stop_token_ids(model, self._tokenizer)
        self.positions = model.config.max_position_embeddings
        self.engine = Engine(
            params=model.params,
            config=model.config,
            num_tokens=model.num_tokens,
            dtype=config.dtype,
            backend=prefill_attention("auto", config.dtype),
            share_prefixes=config.share_prefixes,
            max_rows=_rows() if config.batch_size == "auto" else int(config.batch_size),
        )
        self._weights = {"model": config.model, "step": step, "dtype": config.dtype, "sha256": content}

    def sampled_as(self, config: EvaluateConfig) -> LocalModel:
        """Return a copy that shares the weights and samples by another configuration."""
        other = copy.copy(self)
        other._config = config
        return other

    def identity(self) -> dict[str, Any]:
        return self._weights | _sampling(self._config)

    def tokens(self, prompts: Sequence[Messages]) -> Iterator[list[int]]:
        """Tokenize the prompts with the chat template."""
        return tokens_of_chats(self._tokenizer, prompts, thinking=self._config.thinking != "off")

    def sampling(self, max_new_tokens: int, n: int = 1, decoding: Decoding | None = None) -> SamplingParams:
        """Return the sampling parameters for `n` replies; `decoding` defaults to the configuration's."""
        from socialr1_jax.models.temperature import GREEDY
        from socialr1_jax.sampling import SamplingParams

        config = self._config
        drawn = (decoding or decoding_of(config))._asdict() | {"top_k": config.top_k}
        if drawn["temperature"] < GREEDY:  # filters do not change the argmax
            drawn |= {"top_k": 0, "top_p": 1.0}
        if config.thinking == "budget":
            end = self._tokenizer.convert_tokens_to_ids(_THINK_END)
            drawn |= {"thinking_budget": config.thinking_tokens, "think_end_id": end}
        return SamplingParams(n=n, max_new_tokens=max_new_tokens, seed=config.seed, stop_token_ids=self._stops, **drawn)

    def reply(self, completion: Completion) -> Reply:
        """Decode a completion to a reply."""
        from socialr1_jax.sampling.text import decode_responses

        (text,) = decode_responses(self._tokenizer, [completion], thinking=self._config.thinking != "off")
        return Reply(text, completion.finish_reason, len(completion.tokens))

    def replies(self, asked: Sequence[Asked]) -> Iterator[tuple[int, int, Reply]]:
        import jax

        from socialr1_jax.models.temperature import GREEDY
        from socialr1_jax.sampling.shared_prefill import good_order

        yield from self._likelihoods([(i, question) for i, question in enumerate(asked) if question.continuations])
        sampled = [i for i, question in enumerate(asked) if not question.continuations]
        calls: dict[tuple[Any, ...], list[_Prompt]] = {}  # grouped by compiled program
        equal: dict[tuple[Any, ...], _Prompt] = {}
        for i, ids in zip(sampled, self.tokens([asked[i].messages for i in sampled]), strict=True):
            question, tokens = asked[i], array("i", ids)  # a tenth of a list's memory
            left = self.positions - len(tokens)
            if left < 1:
                yield from ((i, sample, Reply("", "too_long", 0)) for sample in question.samples)
                continue
            sampling = self.sampling(min(question.max_new_tokens, left), max(question.samples) + 1, question.decoding)
            # Greedy decoding: equal prompts have equal replies and are decoded once.
            key = (tokens.tobytes(), sampling) if sampling.temperature < GREEDY else (i,)
            if key not in equal:
                equal[key] = _Prompt(tokens, sampling, [])
                calls.setdefault((sampling.filters, sampling.repetition_penalty == 1), []).append(equal[key])
            equal[key].places.append(i)
        for prompts in calls.values():
            new = [min(prompt.sampling.max_new_tokens, self.engine.segment_tokens) for prompt in prompts]
            ordered = [prompts[i] for i in good_order([prompt.tokens for prompt in prompts], new)]
            numbers = [_number(asked[prompt.places[0]].key, 8) for prompt in ordered]
            with jax.set_mesh(self.mesh):
                ended = self.engine.completions(
                    [prompt.tokens for prompt in ordered], [prompt.sampling for prompt in ordered], prompt_ids=numbers
                )
                for at, sample, completion in ended:
                    reply = self.reply(completion)
                    yield from ((i, sample, reply) for i in ordered[at].places if sample in asked[i].samples)

    def _likelihoods(self, asked: Sequence[tuple[int, Asked]]) -> Iterator[tuple[int, int, Reply]]:
        """Yield the replies to prompts with continuations; each prompt and continuation is tokenized as one text."""
        import jax

        from socialr1_jax.evaluation.likelihood import continuation_logprobs

        def encoded(texts: Sequence[str]) -> list[list[int]]:
            return self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]

        questions, places = [], []
        for i, question in asked:
            text = question.messages[-1]["content"]
            prompt, *whole = encoded([text, *(text + tail for tail in question.continuations)])
            tails = [tokens[len(prompt) :] for tokens in whole]
            if len(prompt) + max(map(len, tails)) > self.positions:
                yield from ((i, sample, Reply("", "too_long", 0)) for sample in question.samples)
            else:
                questions.append((prompt, tails))
                places.append((i, question.samples))
        with jax.set_mesh(self.mesh):
            for at, logprobs in continuation_logprobs(self.engine, questions):
                i, samples = places[at]
                reply = Reply(json.dumps(logprobs), "stop", sum(map(len, questions[at][1])))
                yield from ((i, sample, reply) for sample in samples)

    def close(self) -> None:
        pass


class Endpoint:
    """A model behind an OpenAI-compatible server. `names`: names of its settings in error messages.

    Raises BenchmarkError if the openai package or the key is missing, or if the server rejects every request.
    """

    def __init__(self, config: EvaluateConfig, names: SettingNames = PLAIN_NAMES) -> None:
        self._config, self.concurrency = config, config.concurrency
        try:
            self._chat = ChatClient(config, names)
        except (ChatRefused, ImportError) as error:
            raise BenchmarkError(str(error)) from None

    def identity(self) -> dict[str, Any]:
        config = self._config
        options = {"options": config.options} if config.options else {}
        return {"model": config.model, "base_url": config.base_url, **_sampling(config), **options}

    def replies(self, asked: Sequence[Asked]) -> Iterator[tuple[int, int, Reply]]:
        calls = {self.start(one, s): (i, s) for i, one in enumerate(asked) for s in one.samples}
        try:
            for call in as_completed(calls):
                yield *calls[call], self.result(call)
        finally:
            for call in calls:
                call.cancel()

    def start(self, asked: Asked, sample: int = 0, schema: Mapping[str, Any] | None = None) -> Future[Reply]:
        """Call the server. `schema`: JSON Schema of the reply, for servers with structured output."""
        config = self._config
        seed = _number(f"{config.seed} {asked.key} {sample}", 7)
        sent: dict[str, Any] = {**(asked.decoding or decoding_of(config))._asdict(), "seed": seed}
        if sent["repetition_penalty"] == 1:  # not every server supports it
            del sent["repetition_penalty"]
        sent["max_tokens"] = asked.max_new_tokens
        if config.thinking == "off":
            sent["chat_template_kwargs"] = {"enable_thinking": False}
        if schema:
            form = {"name": "reply", "schema": schema, "strict": True}
            sent["response_format"] = {"type": "json_schema", "json_schema": form}
        return self._chat.ask(asked.messages, sent)

    def answered_before(self) -> None:
        """Treat rejected requests as single failures: the server is known to have answered others before."""
        self._chat.answered_before()

    def result(self, call: Future[Reply]) -> Reply:
        """Return the reply of a finished call. Raises BenchmarkError if the server rejects every request."""
        try:
            return call.result()
        except (ChatRefused, CancelledError):
            raise BenchmarkError(str(self._chat.refused or "the client was closed")) from None

    def close(self) -> None:
        self._chat.close()


def make_respondent(config: EvaluateConfig, names: SettingNames = PLAIN_NAMES) -> Respondent:
    """Return an `Endpoint` if `base_url` is set, else a `LocalModel`."""
    return Endpoint(config, names) if config.base_url else LocalModel(config)


def decoding_of(config: EvaluateConfig) -> Decoding:
    """Return the default decoding of a configuration."""
    return Decoding(config.temperature, config.top_p, config.repetition_penalty)


def read_model(
    name: str, step: str, dtype: str, ignore_fields: Collection[str] = (), mesh: Mesh | None = None
) -> tuple[Qwen3, Path | None]:
    """Load a Hugging Face folder or hub id, or a run's checkpoint `step` (latest, best or a number).

    Returns the model, and the checkpoint's folder if it is a run's. A checkpoint's weights are float32 whatever the
    `dtype`. Without a mesh all weights are on the first device. Raises the errors of `load_hf` and `load_policy`.
    """
    from socialr1_jax.run.weights import find_checkpoint, is_run, load_policy
    from socialr1_jax.weights.hf import load_hf

    if is_run(name):
        checkpoint = find_checkpoint(name, step)
        return load_policy(checkpoint, mesh=mesh), checkpoint
    return load_hf(name, mesh, dtype, ignore_fields=ignore_fields), None


def folder_hash(folder: Path) -> str:
    """Return the first 16 digits of a SHA-256 over the names and contents of a model folder's files."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        digest.update(f"{file.relative_to(folder).as_posix()} {sha256(file)}\n".encode())
    return digest.hexdigest()[:16]


def _number(key: str, digits: int) -> int:
    return int(hashlib.sha256(key.encode()).hexdigest()[:digits], 16)


def _rows() -> int:
    """Return the decode batch size of a device; on a CPU a larger batch saves no time per row."""
    import jax

    return 128 if jax.default_backend() == "cpu" else 512


def _sampling(config: EvaluateConfig) -> dict[str, Any]:
    names = {"temperature", "top_k", "top_p", "seed", "thinking"}
    settings = config.model_dump(include=names)
    if config.repetition_penalty != 1:
        settings["repetition_penalty"] = config.repetition_penalty
    return settings | ({"thinking_tokens": config.thinking_tokens} if config.thinking == "budget" else {})
