"""How fast the programs of a run are: prefill, decode, update, and a whole GRPO step, on random weights.

Nothing is written anew for the measurement: prefill and decode are the engine's, the update and the log-probs are
those that the trainer compiles. Definitions are in docs/performance.md.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from socialr1_jax.config import DataConfig, GrpoConfig, ModelConfig, RunConfig, SamplingConfig
from socialr1_jax.grpo.packing import pack_rows
from socialr1_jax.grpo.update import TrainState, init_state
from socialr1_jax.mesh import make_mesh
from socialr1_jax.models.attention import Backend
from socialr1_jax.models.attention_trial import working_attention
from socialr1_jax.models.qwen3 import Params, Qwen3, Qwen3Config, init_params
from socialr1_jax.rewards import RewardTerms
from socialr1_jax.sampling import Engine, SamplingParams
from socialr1_jax.sampling.batch import Fresh
from socialr1_jax.sampling.decode import admit, empty_batch  # the compiled programs themselves
from socialr1_jax.training.peers import Transformers, trl_steps
from socialr1_jax.training.rollouts import Rollouts
from socialr1_jax.training.run import Laps
from socialr1_jax.training.step import make_step
from socialr1_jax.training.summary import peak_rss_bytes

PHASES = ("rollout", "reward", "reference", "update")  # of one GRPO step


class Timing(NamedTuple):
    """Wall seconds of one piece of work: the first call, which compiles, and every later one."""

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


def benchmark(
    config: Qwen3Config, *, dtype: str = "float32", rows: int, prompt: int, new: int, prompts: int = 0, group: int = 5,
    repeats: int = 3, micro_batch_tokens: int = 2048, remat: str = "attention", attention: str = "auto",
    update: bool = True, requests: int = 0, peers: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Speeds of a random Qwen3, ready for one JSON line.

    `rows` right-padded rows of `prompt` tokens and `new` more; with `prompts` > 0 also a GRPO step of prompts x group
    responses. With `update=False` there is no update and no GRPO step, and the weights are made in `dtype` instead of
    float32. With `requests` > 0 also responses of `tail_lengths` to so many prompts, `rows` at once, by continuous
    batching and in static batches. Speeds are tokens per second at the median of `repeats` calls; `spread_s` holds
    [min, median, max] seconds of a call, `compile_s` how much longer the first call took. With `peers` transformers
    does the same work in turn with ours, and TRL the step after it. One line for each result also goes to stderr as
    soon as it is there. Raises PeersMissing.
    """
    asked, group = group, group if prompts else max(2, rows)
    run = RunConfig(
        model=ModelConfig.model_validate(
            {"path": "random weights", "dtype": dtype, "attention": attention, "remat": remat}
        ),
        data=DataConfig(train=("random tokens",)),
        sampling=SamplingConfig(group_size=group, max_new_tokens=new),
        grpo=GrpoConfig(
            prompts_per_step=prompts or 1, mini_batch_prompts=prompts or 1, micro_batch_tokens=micro_batch_tokens
        ),
    )
    weights = init_params(config, jax.random.key(0), jnp.float32 if update else dtype)
    model = Qwen3(config, jax.block_until_ready(weights))
    backend = working_attention(run.model.attention, dtype)
    timings: dict[str, Timing] = {}

    theirs = _peers(config, dtype, rows, prompt, new) if peers else {}

    def measure(name: str, call: Callable[[], float]) -> None:
        calls = {name: call} | ({_peer(name): theirs[name]} if name in theirs else {})
        firsts = {which: one() for which, one in calls.items()}
        later = [{which: one() for which, one in calls.items()} for _ in range(repeats)]  # in turn: noise hits both
        for which, first in firsts.items():
            timings[which] = Timing(first, [seconds[which] for seconds in later])
            _say(which, timings[which])

    measure("prefill", partial(_prefill, _engine(run, config, model.params, backend), rows, prompt))
    measure("decode", partial(_decode, _engine(run, config, model.params, backend), rows, prompt, new))
    speeds = {
        "prefill_tok_s": rows * prompt / timings["prefill"].median,
        "decode_tok_s": rows * (new - 1) / timings["decode"].median,
    }
    if requests:
        engine = replace(_engine(run, config, model.params, backend), max_rows=-(-rows // jax.device_count()))
        wall_steps: list[int] = []
        for name, static in (("tail", False), ("tail_static", True)):
            measure(name, partial(_tail, engine, requests, rows, prompt, new, wall_steps, static=static))
            speeds[f"{name}_tok_s"] = int(tail_lengths(requests, new).sum()) / timings[name].median
    phases: list[dict[str, float]] = []
    if update:
        trainer = _Trainer(run, model, prompt, backend, asked)
        measure("update", partial(trainer.update, rows, prompt, new))
        measure("update_whole", partial(trainer.update, rows, prompt, new, whole=True))
        for name in ("update", "update_whole"):
            speeds[f"{name}_tok_s"] = rows * (prompt + new) / timings[name].median
        if prompts:
            phases = [trainer.step(i) for i in range(repeats + 1)]
            first, *later = (sum(laps.values()) for laps in phases)
            timings["grpo_step"] = Timing(first, later)
            _say("grpo_step", timings["grpo_step"])
            speeds["grpo_step_s"] = timings["grpo_step"].median
            if peers:
                first, *later = trl_steps(
                    config, dtype, prompts=prompts, group=group, prompt=prompt, new=new, steps=repeats
                )
                timings[_peer("grpo_step")] = Timing(first, later)
                _say(_peer("grpo_step"), timings[_peer("grpo_step")])
    result: dict[str, Any] = {"dtype": dtype, "rows": rows, "prompt": prompt, "new": new}
    if phases:
        result |= {"prompts": prompts, "group": group}
    result |= {name: _rounded(speed) for name, speed in speeds.items()}
    if requests:
        result |= {"tail_wall_steps": wall_steps[-1], "tail_longest": int(tail_lengths(requests, new).max())}
    if peers:
        work = {"prefill": rows * prompt, "decode": rows * (new - 1), "update": rows * (prompt + new)}
        found = {name: count / timings[_peer(name)].median for name, count in work.items() if _peer(name) in timings}
        result["peers"] = {f"{name}_tok_s": _rounded(speed) for name, speed in found.items()}
        if _peer("grpo_step") in timings:
            result["peers"]["grpo_step_s"] = _rounded(timings[_peer("grpo_step")].median)
    if phases:
        middle = {name: statistics.median(laps[name] for laps in phases[1:]) for name in PHASES}
        result["grpo_phases_s"] = {name: _rounded(seconds) for name, seconds in middle.items()}
    return result | {
        "compile_s": {name: _rounded(timing.compile) for name, timing in timings.items()},
        "repeats": repeats,
        "spread_s": {name: timing.spread for name, timing in timings.items()},
        "params_m": round(sum(x.size for x in jax.tree.leaves(model.params)) / 1e6, 2),
        "micro_batch_tokens": micro_batch_tokens,
        "remat": remat,
        "attention": backend,
        "device": _device(),
        "jax": jax.__version__,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _peer(name: str) -> str:
    return f"{name} of {'TRL' if name == 'grpo_step' else 'transformers'}"


def _peers(config: Qwen3Config, dtype: str, rows: int, prompt: int, new: int) -> dict[str, Callable[[], float]]:
    other = Transformers(config, dtype)
    return {
        "prefill": partial(other.prefill, rows, prompt),
        "decode": partial(other.decode, rows, prompt, new),
        "update": partial(other.update, rows, prompt + new),
    }


def _prefill(engine: Engine, rows: int, prompt: int) -> float:
    """Seconds until the caches of `rows` prompts are filled."""
    tokens_bt, lengths_b = jnp.asarray(_tokens(engine.config, rows, prompt)), jnp.full(rows, prompt)
    dtype, fresh = jnp.dtype(engine.dtype), Fresh(rows, 1).placed()
    state = empty_batch(engine.config, rows, prompt, dtype, 1)
    jax.block_until_ready((tokens_bt, lengths_b, state, fresh))
    started = time.perf_counter()
    filled = admit(
        engine.params, engine.config, state, tokens_bt, lengths_b, jnp.arange(rows), fresh, dtype=dtype,
        backend=engine.backend,
    )  # fmt: skip
    jax.block_until_ready(filled)
    return time.perf_counter() - started


def _decode(engine: Engine, rows: int, prompt: int, new: int) -> float:
    """Seconds for `rows` samples of `new` tokens to one prompt, less those for samples of one token."""

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
    """Seconds for responses of `tail_lengths` to `requests` prompts, `rows` at once on all devices together.

    `static`: each batch of `rows` decodes until its longest response is there, whatever the others need. Else the
    decode steps of the slowest device are appended to `wall_steps`.
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
    """Lengths [requests] of responses with a long tail: exponential, cut at `new`, a quarter of it in the mean."""
    quantiles = (np.arange(requests) + 0.5) / requests
    lengths = np.clip(np.ceil(-0.255 * new * np.log1p(-quantiles)), 1, new).astype(int)
    return np.random.default_rng(0).permutation(lengths)


class _Trainer:
    """The training state of a run and its step."""

    def __init__(self, run: RunConfig, model: Qwen3, prompt: int, backend: Backend, group: int) -> None:
        self._run, self._config, self._prompt, self._backend = run, model.config, prompt, backend
        self._group = group  # rows of an update that share a prompt
        # Every row is as long as the others: no padding, as in the baselines.
        self._step = replace(make_step(run, model.config, model.num_tokens, model.params, backend), multiple=1)
        self._state: TrainState = init_state(model.params, self._step.programs.optimizer)

    def update(self, rows: int, prompt: int, new: int, whole: bool = False) -> float:
        """Return the seconds of one update on `rows` rows of prompt + new tokens.

        On responses of which each group has one prompt, or (`whole`) on all tokens of rows that share nothing.
        """
        tokens = _tokens(self._config, rows, prompt + new)
        cut = prompt
        if whole:
            cut = 1  # nothing predicts a row's first token
        else:
            tokens[:, :prompt] = tokens[np.arange(rows) // self._group * self._group, :prompt]
        batch = pack_rows(
            [row[:cut] for row in tokens.tolist()],
            [row[cut:] for row in tokens.tolist()],
            multiple=1,
            advantages=np.where(np.arange(rows) % 2, 1.0, -1.0).astype(np.float32),
        )
        batch = replace(batch, ref_logp_bt=np.zeros(batch.tokens_bt.shape, np.float32))
        placed = [one.rows.placed() for one in self._step.micro_batches(batch)]
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
    """Return a reward that differs between responses: the number of different tokens."""
    total = float(len(set(tokens)))
    return RewardTerms(total, 1.0, total, 0.0, 0.0, 1.0, 1.0, {})


def _engine(run: RunConfig, config: Qwen3Config, params: Params, backend: Backend) -> Engine:
    return Engine(
        params=params,
        config=config,
        num_tokens=config.vocab_size,
        dtype=run.model.dtype,
        backend=backend,
        segment_tokens=run.sampling.segment_tokens,
    )


def _tokens(config: Qwen3Config, rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.vocab_size, (rows, width), dtype=np.int32)


def _device() -> str:
    kind = jax.devices()[0].device_kind
    return f"{kind}, {os.cpu_count()} cores" if kind == "cpu" else kind


def _say(name: str, timing: Timing) -> None:
    low, middle, high = timing.spread
    print(
        f"{name}: {middle} s, {low} to {high} s in {len(timing.later)} calls, "
        f"compiled in {_rounded(timing.compile)} s",
        file=sys.stderr,
    )  # fmt: skip


def _rounded(value: float) -> float:
    """Four significant digits: more is noise."""
    return float(f"{value:.4g}")
