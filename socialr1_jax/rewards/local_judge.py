"""Judge structure with a separate Qwen3, run by the engine on the run's mesh."""

import time
from concurrent.futures import Future
from dataclasses import replace

import jax

from socialr1_jax.config.rewards import StructureConfig
from socialr1_jax.data.chat_template import chat_tokens
from socialr1_jax.models.attention_trial import prefill_attention
from socialr1_jax.rewards.rubric import answer_code, parse_verdict, read_rubric, rubric_messages
from socialr1_jax.rewards.verdict import Judge, Verdict
from socialr1_jax.runtime.interrupt import NEVER, Stop
from socialr1_jax.sampling import Engine, SamplingParams
from socialr1_jax.sampling.text import decode_responses, stop_token_ids
from socialr1_jax.weights.hf import load_hf
from socialr1_jax.weights.hf_folder import local_folder
from socialr1_jax.weights.tokenizer_files import load_tokenizer

_SEED_STEP = 2**31 - 2  # a step number that training never reaches: other random numbers than any step's


class LocalJudge(Judge):
    """Judge that collects questions and answers them in `finish`, since it shares the devices with the sampler.

    Weights have the layout of training on the current mesh, in bfloat16 on accelerators. Raises the errors of `load_hf`
    and `read_rubric`.
    """

    everywhere = True

    def __init__(self, config: StructureConfig) -> None:
        self._config, self._rubric = config, read_rubric(config.rubric)
        on_cpu = jax.default_backend() == "cpu"
        mesh = jax.sharding.get_mesh()
        self._tokenizer = load_tokenizer(folder := local_folder(config.model))
        model = load_hf(folder, None if mesh.empty else mesh, dtype="float32" if on_cpu else "bfloat16")
        if not self._tokenizer.chat_template:
            raise ValueError(f"{config.model}: its tokenizer has no chat template, so it cannot be asked to judge")
        self._engine = Engine(
            params=model.params,
            config=model.config,
            num_tokens=model.num_tokens,
            dtype=model.dtype.name,
            backend=prefill_attention("auto", model.dtype.name),
        )
        self._sampling = SamplingParams(
            max_new_tokens=config.max_tokens,
            temperature=config.temperature,
            stop_token_ids=stop_token_ids(model, self._tokenizer),
        )
        self._waiting: list[tuple[list[int], str, Future[Verdict]]] = []
        self._counts: dict[str, float] = {}

    def submit(self, story: str, question: str, thoughts: str) -> Future[Verdict]:
        # No thinking: greedy thoughts often do not end.
        messages = rubric_messages(story, question, thoughts, self._rubric)
        tokens = chat_tokens(self._tokenizer, messages, thinking=False)
        verdict: Future[Verdict] = Future()
        if len(tokens) + self._config.max_tokens > self._engine.config.max_position_embeddings:
            verdict.set_result(Verdict.unscorable("too_long"))
        else:
            self._waiting.append((tokens, answer_code(story, question, thoughts), verdict))
        return verdict

    def finish(self, stop: Stop = NEVER) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        started = time.perf_counter()
        engine = replace(self._engine, poll=stop.check)
        groups = engine.sample([tokens for tokens, _, _ in waiting], self._sampling, step=_SEED_STEP)
        answers = [group[0] for group in groups]
        texts = decode_responses(self._tokenizer, answers, thinking=False)
        for (_, code, verdict), text in zip(waiting, texts, strict=True):
            verdict.set_result(parse_verdict(text, code))
        numbers = {
            "calls": len(waiting),
            "tokens_in": sum(len(tokens) for tokens, _, _ in waiting),
            "tokens_out": sum(len(answer.tokens) for answer in answers),
            "seconds": time.perf_counter() - started,
        }
        self._counts = {name: self._counts.get(name, 0.0) + number for name, number in numbers.items()}

    def counters(self) -> dict[str, float]:
        counts, self._counts = self._counts, {}
        return counts

    def close(self) -> None:
        for _, _, verdict in self._waiting:
            verdict.set_result(Verdict.unscorable("closed"))
        self._waiting = []
