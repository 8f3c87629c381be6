"""Measure the programs of a run: prefill, decode, update, and a whole GRPO step, on random weights.

The measured programs are those of a run: prefill and decode of the engine, update and log-probs of the trainer.
Definitions are in docs/performance.md.
"""

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from socialr1_jax.benchmark.config import BenchmarkConfig
from socialr1_jax.benchmark.peaks import device_text, measure_peaks
from socialr1_jax.benchmark.peers import peer_process, transformers_seconds, trl_steps
from socialr1_jax.config.run import RunConfig
from socialr1_jax.grpo.packing import pack_rows
from socialr1_jax.grpo.rollouts import Rollouts
from socialr1_jax.grpo.step import make_step
from socialr1_jax.grpo.update import TrainState, init_state
from socialr1_jax.models.arithmetic import Arithmetic
from socialr1_jax.models.attention import Backend
from socialr1_jax.models.attention_trial import prefill_attention, working_attention, working_decode_kernel
from socialr1_jax.models.qwen3 import Params, Qwen3, init_params, row_logits
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.rewards import RewardTerms
from socialr1_jax.run.run import Laps
from socialr1_jax.run.summary import peak_rss_bytes
from socialr1_jax.runtime.mesh import make_mesh
from socialr1_jax.sampling import Engine, SamplingParams
from socialr1_jax.sampling.batch import slot_stride
from socialr1_jax.sampling.decode import admit, empty_batch, empty_caches, free_rows  # the compiled programs themselves

PHASES = ("rollout", "reward", "reference", "update")  # of one GRPO step


class Timing(NamedTuple):
    """Wall seconds of the first call, which compiles, and of every later one."""

    first: float
    later: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.later)

    @property
    def compile(self) -> float:
        return max(0.0, self.first - self.median)

    @property
    def spread(self) -> list[float]:
        return [_rounded(x) for x in (min(self.later), self.median, max(self.later))]


def benchmark(shape: Qwen3Config, config: BenchmarkConfig) -> dict[str, Any]:
    """Return the speeds of a random Qwen3 of this shape, ready for one JSON line.

    Speeds are tokens per second at the median of `config.repeats` calls; `spread_s` holds [min, median, max] seconds of
    a call, `compile_s` the excess of the first call. A decode too short to measure has no speed. With `config.peers`
    transformers does the same work, alternating with ours, and TRL does the step afterwards. Without `config.update`
    the weights are in `config.dtype` instead of float32. Each result is also printed to stderr at once. Raises
    PeersMissing if a peer is not installed.
    """
    with peer_process() if config.peers else nullcontext() as peers:
        measured = _Measured(shape, config, peers)
        if config.sampling:
            measured.sampling()
        if config.requests:
            measured.tail()
        if config.update:
            measured.training()
        return measured.result()


class _Measured:
    """The measured model, and the results so far."""

    def __init__(self, shape: Qwen3Config, config: BenchmarkConfig, peers: Executor | None) -> None:
        self._shape, self._config, self._peers = shape, config, peers
        if peers:
            self._of_peers(transformers_seconds, "prefill", 1, 1)  # a missing package shows before anything is measured
        self._peaks = measure_peaks(config.dtype, devices=1)
        self._costs = Arithmetic(shape, jnp.dtype(config.dtype).itemsize, 1, config.weights)
        group = config.group if config.prompts else max(2, config.rows)
        prompts = {"prompts_per_step": config.prompts or 1, "mini_batch_prompts": config.prompts or 1}
        drawn = {"group_size": group, "max_new_tokens": config.new}
        sections = {
            "model": {"path": "random weights"} | config.model_dump(include={"dtype", "attention", "remat"}),
            "data": {"train": ("random tokens",)},
            "sampling": drawn | {"weights": config.weights, "attention": config.decode_attention},
            "grpo": prompts | {"micro_batch_tokens": config.micro_batch_tokens},
        }
        self._run = RunConfig.model_validate(sections)
        weights = init_params(shape, jax.random.key(0), jnp.float32 if config.update else config.dtype)
        self._model = Qwen3(shape, jax.block_until_ready(weights))
        self._backend = working_attention(self._run.model.attention, config.dtype)
        self._engine = _engine(self._run, shape, self._model.params, self._backend)
        self._timings: dict[str, Timing] = {}
        self._speeds: dict[str, float] = {}
        self._peer_speeds: dict[str, float] = {}
        self._shares: dict[str, float] = {}  # of the measured peaks
        self._phases: list[dict[str, float]] = []
        self._wall_steps: list[int] = []

    def sampling(self) -> None:
        """Measure prefill and decode."""
        rows, prompt, new = self._config.rows, self._config.prompt, self._config.new
        self._measure("prefill", partial(_prefill, self._engine, rows, prompt), rows * prompt, rows, prompt)
        needed = rows * self._costs.flops(prompt, prompt * prompt / 2, 0)
        self._shares["prefill"] = needed / self._timings["prefill"].median / self._peaks.flops
        self._measure("decode", partial(_decode, self._engine, rows, prompt, new), rows * (new - 1), rows, prompt, new)
        if "decode_tok_s" in self._speeds:
            moved = (new - 1) * self._costs.decode_step(rows, new / 2, prompt, rows).bytes
            self._shares["decode"] = moved / self._timings["decode"].median / self._peaks.bandwidth

    def tail(self) -> None:
        """Measure responses of `tail_lengths`, by continuous batching and in static batches."""
        config = self._config
        engine = replace(self._engine, max_rows=-(-config.rows // jax.device_count()))
        sizes = (config.requests, config.rows, config.prompt, config.new, self._wall_steps)
        tokens = int(tail_lengths(config.requests, config.new).sum())
        for name, static in (("tail", False), ("tail_static", True)):
            self._measure(name, partial(_tail, engine, *sizes, static=static), tokens)

    def training(self) -> None:
        """Measure an update and, with `prompts`, a GRPO step."""
        config, rows, prompt, new = self._config, self._config.rows, self._config.prompt, self._config.new
        trainer = _Trainer(self._run, self._model, prompt, self._backend, config.group)
        for name, peers in (("update", (rows, prompt + new)), ("update_whole", ())):
            call = partial(trainer.update, rows, prompt, new, whole=name == "update_whole")
            self._measure(name, call, rows * (prompt + new), *peers)
            self._shares[name] = trainer.flops / self._timings[name].median / self._peaks.flops
        if not config.prompts:
            return
        self._phases = [trainer.step(i) for i in range(config.repeats + 1)]
        first, *later = (sum(laps.values()) for laps in self._phases)
        self._timings["grpo_step"] = Timing(first, later)
        _say("grpo_step", self._timings["grpo_step"])
        self._speeds["grpo_step_s"] = self._timings["grpo_step"].median
        if self._peers:
            sizes = {"prompts": config.prompts, "group": config.group, "prompt": prompt, "new": new}
            first, *later = self._of_peers(trl_steps, **sizes, steps=config.repeats)
            self._timings[_peer("grpo_step")] = timing = Timing(first, later)
            self._peer_speeds["grpo_step_s"] = timing.median

    def result(self) -> dict[str, Any]:
        """Return the results with the settings and the machine."""
        config, timings = self._config, self._timings
        result: dict[str, Any] = config.model_dump(include={"dtype", "weights", "rows", "prompt", "new"})
        if self._phases:
            result |= config.model_dump(include={"prompts", "group"})
        result |= {name: _rounded(speed) for name, speed in self._speeds.items()}
        if config.requests:
            longest = int(tail_lengths(config.requests, config.new).max())
            result |= {"tail_wall_steps": self._wall_steps[-1], "tail_longest": longest}
        result["of_peak"] = {name: round(share, 3) for name, share in self._shares.items()}
        result["peaks"] = {
            "tflops": _rounded(self._peaks.flops / 1e12),
            "gb_s": _rounded(self._peaks.bandwidth / 1e9),
        }
        if config.check:
            tokens_bt = _tokens(self._shape, 2, min(config.prompt, 128))
            found = parity(self._model.params, self._shape, tokens_bt, config.dtype, self._backend)
            result["parity"] = {name: _rounded(value) for name, value in found.items()}
        if config.peers:
            result["peers"] = {name: _rounded(speed) for name, speed in self._peer_speeds.items()}
        if self._phases:
            middle = {name: statistics.median(laps[name] for laps in self._phases[1:]) for name in PHASES}
            result["grpo_phases_s"] = {name: _rounded(seconds) for name, seconds in middle.items()}
        return result | {
            "compile_s": {name: _rounded(timing.compile) for name, timing in timings.items()},
            "repeats": config.repeats,
            "spread_s": {name: timing.spread for name, timing in timings.items()},
            "params_m": round(sum(x.size for x in jax.tree.leaves(self._model.params)) / 1e6, 2),
            "micro_batch_tokens": config.micro_batch_tokens,
            "remat": config.remat,
            "attention": self._backend,
            "decode_attention": working_decode_kernel(config.decode_attention, self._model.config, config.dtype),
            "device": device_text(),
            "jax": jax.__version__,
            "peak_rss_bytes": peak_rss_bytes(),
        }

    def _of_peers(self, function: Callable[..., Any], *args: Any, **sizes: Any) -> Any:
        """Call a function in the process of the peers, on the measured shape."""
        assert self._peers is not None
        return self._peers.submit(function, self._shape, self._config.dtype, *args, **sizes).result()

    def _measure(self, name: str, call: Callable[[], float], tokens: int, *peer_sizes: int) -> None:
        """Measure a call that handles `tokens`, alternately with the peer's method of that name on `peer_sizes`."""
        calls, peer = {name: call}, _peer(name)
        if self._peers and peer_sizes:
            calls[peer] = partial(self._of_peers, transformers_seconds, name, *peer_sizes)
        firsts = {which: timed() for which, timed in calls.items()}
        # Alternate, so that other load affects both alike.
        later = [{which: timed() for which, timed in calls.items()} for _ in range(self._config.repeats)]
        for which, first in firsts.items():
            self._timings[which] = timing = Timing(first, [seconds[which] for seconds in later])
            _say(which, timing)
            if timing.median > 0:
                (self._speeds if which == name else self._peer_speeds)[f"{name}_tok_s"] = tokens / timing.median
            else:
                print(f"{which}: too short to measure; ask for more tokens (--new)", file=sys.stderr)


def _peer(name: str) -> str:
    return f"{name} of {'TRL' if name == 'grpo_step' else 'transformers'}"


def _prefill(engine: Engine, rows: int, prompt: int) -> float:
    """Return the seconds of filling the caches of `rows` prompts."""
    tokens_bt, lengths_b = jnp.asarray(_tokens(engine.config, rows, prompt)), jnp.full(rows, prompt)
    dtype, fresh = jnp.dtype(engine.dtype), free_rows(jnp, rows, 1, 0)
    state = empty_batch(engine.config, rows, slot_stride(engine.platform), dtype, 1)
    prefixes = empty_caches(engine.config, rows, prompt, dtype)
    jax.block_until_ready((tokens_bt, lengths_b, state, prefixes, fresh))
    started = time.perf_counter()
    filled = admit(
        engine.params,
        engine.config,
        state,
        prefixes,
        tokens_bt,
        lengths_b,
        jnp.arange(rows),
        jnp.arange(rows),
        fresh,
        dtype=dtype,
        backend=engine.backend,
    )
    jax.block_until_ready(filled)
    return time.perf_counter() - started


def _decode(engine: Engine, rows: int, prompt: int, new: int) -> float:
    """Return the seconds of `rows` samples of `new` tokens to one prompt, minus those of samples of one token."""

    def seconds(new: int) -> float:
        started = time.perf_counter()
        (group,) = engine.sample(_tokens(engine.config, 1, prompt).tolist(), SamplingParams(n=rows, max_new_tokens=new))
        taken = time.perf_counter() - started
        drawn = sum(len(completion.tokens) for completion in group)
        if drawn != rows * new:
            raise RuntimeError(f"the engine drew {drawn} tokens, not {rows} x {new}")
        return taken

    return seconds(new) - seconds(1)


def _tail(
    engine: Engine, requests: int, rows: int, prompt: int, new: int, wall_steps: list[int], *, static: bool
) -> float:
    """Return the seconds of responses of `tail_lengths` to `requests` prompts, `rows` at once over all devices.

    `static`: each batch of `rows` decodes to the length of its longest response. Otherwise the decode steps of the
    slowest device are appended to `wall_steps`.
    """
    prompts, lengths = _tokens(engine.config, requests, prompt).tolist(), tail_lengths(requests, new)
    batches = [range(first, min(first + rows, requests)) for first in range(0, requests, rows)]
    with jax.set_mesh(make_mesh()) if jax.device_count() > 1 else nullcontext():
        started = time.perf_counter()
        if static:
            for batch in batches:
                longest = SamplingParams(max_new_tokens=max(int(lengths[i]) for i in batch))
                engine.sample([prompts[i] for i in batch], longest)
        else:
            rollout = engine.rollout(prompts, [SamplingParams(max_new_tokens=int(length)) for length in lengths])
            for _ in rollout.steps():
                pass
            wall_steps.append(rollout.wall_steps)
        return time.perf_counter() - started


def tail_lengths(requests: int, new: int) -> np.ndarray:
    """Return lengths [requests] with a long tail: exponential with mean `new` / 4, cut at `new`."""
    quantiles = (np.arange(requests) + 0.5) / requests
    lengths = np.clip(np.ceil(-0.255 * new * np.log1p(-quantiles)), 1, new).astype(int)
    return np.random.default_rng(0).permutation(lengths)


def parity(
    params: Params, config: Qwen3Config, tokens_bt: np.ndarray, dtype: str, backend: Backend
) -> dict[str, float]:
    """Return how far logits are from those of the CPU in float32.

    These are the relative norm and the largest of the differences, and the share of equal likeliest tokens.
    """
    full_b = np.full(len(tokens_bt), tokens_bt.shape[1])
    ours_btv = np.asarray(row_logits(params, config, tokens_bt, full_b, dtype, backend))
    with jax.default_device(jax.devices("cpu")[0]):
        exact_btv = np.asarray(row_logits(jax.device_get(params), config, tokens_bt, full_b, "float32", "xla"))
    return {
        "relative": float(np.linalg.norm(ours_btv - exact_btv) / np.linalg.norm(exact_btv)),
        "largest": float(np.abs(ours_btv - exact_btv).max()),
        "same_token": float((ours_btv.argmax(-1) == exact_btv.argmax(-1)).mean()),
    }


class _Trainer:
    """The training state of a run and its step."""

    def __init__(self, run: RunConfig, model: Qwen3, prompt: int, backend: Backend, group: int) -> None:
        self._run, self._config, self._prompt, self._backend = run, model.config, prompt, backend
        self._group = group  # rows of an update that share a prompt
        self.flops = 0.0  # model FLOP of the last update
        # All rows have the same length: no padding, as in the baselines.
        self._step = replace(make_step(run, model.config, model.num_tokens, model.params, backend), multiple=1)
        self._state: TrainState = init_state(model.params, self._step.programs.optimizer, run.optimizer.moments_memory)

    def update(self, rows: int, prompt: int, new: int, whole: bool = False) -> float:
        """Return the seconds of one update on `rows` rows of prompt + new tokens.

        It trains on responses in groups with a shared prompt or, if `whole`, on all tokens of unrelated rows.
        """
        tokens = _tokens(self._config, rows, prompt + new)
        cut = prompt
        if whole:
            cut = 1  # a row's first token is not predicted
        else:
            tokens[:, :prompt] = tokens[np.arange(rows) // self._group * self._group, :prompt]
        batch = pack_rows(
            [row[:cut] for row in tokens.tolist()],
            [row[cut:] for row in tokens.tolist()],
            multiple=1,
            advantages=np.where(np.arange(rows) % 2, 1.0, -1.0).astype(np.float32),
        )
        batch = replace(batch, ref_logp_bt=np.zeros(batch.tokens_bt.shape, np.float32))
        micro_batches = self._step.micro_batches(batch)
        self.flops = self._step.throughput(micro_batches, 1.0)["update_tflops"] * 1e12
        placed = [self._step.placed(micro_batch) for micro_batch in micro_batches]
        started = time.perf_counter()
        self._state, metrics, _ = self._step.programs.update(self._state, placed)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - started

    def step(self, number: int) -> dict[str, float]:
        """Return the seconds of each phase of one GRPO step, in the trainer's order, on new random prompts."""
        group, new = self._run.sampling.group_size, self._run.sampling.max_new_tokens
        prompts = _tokens(self._config, self._run.grpo.prompts_per_step, self._prompt, seed=number).tolist()
        laps = Laps()
        laps.begin(PHASES)
        engine = _engine(self._run, self._config, self._state.params, self._backend)
        groups = engine.sample(prompts, SamplingParams(n=group, max_new_tokens=new), step=number)
        laps.end("rollout")
        completions = [completion for members in groups for completion in members]
        terms = [_reward(completion.tokens) for completion in completions]
        rollouts = Rollouts(
            group=group, prompts=prompts, prompt_ids=list(range(len(prompts))), completions=completions, terms=terms
        )
        packed = self._step.pack(rollouts)
        laps.end("reward")
        updates = self._step.log_probs(self._state.params, packed.updates)
        laps.end("reference")
        self._state, _ = self._step.update(self._state, updates)
        jax.block_until_ready(self._state)
        laps.end("update")
        return {name: laps.seconds[f"seconds/{name}"] for name in PHASES}


def _reward(tokens: list[int]) -> RewardTerms:
    """Return a reward that varies between responses: the number of different tokens."""
    total = float(len(set(tokens)))
    return RewardTerms(total, 1.0, total, 0.0, 0.0, 1.0, 1.0, {})


def _engine(run: RunConfig, config: Qwen3Config, params: Params, backend: Backend) -> Engine:
    return Engine(
        params=params,
        config=config,
        num_tokens=config.vocab_size,
        dtype=run.model.dtype,
        weights=run.sampling.weights,
        backend=prefill_attention(backend, run.model.dtype),
        attention=run.sampling.attention,
        segment_tokens=run.sampling.segment_tokens,
    )


def _tokens(config: Qwen3Config, rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.vocab_size, (rows, width), dtype=np.int32)


def _say(name: str, timing: Timing) -> None:
    low, middle, high = timing.spread
    print(
        f"{name}: {middle} s, {low} to {high} s in {len(timing.later)} calls, compiled in {_rounded(timing.compile)} s",
        file=sys.stderr,
    )


def _rounded(value: float) -> float:
    """Round to four significant digits; the rest is noise."""
    return float(f"{value:.4g}")
