"""Record rollouts to a file and replay them."""

import json
import math
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from socialr1_jax.config.loading import load_config
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError, Count
from socialr1_jax.grpo.rollouts import Phase, Rollouts, RolloutSource
from socialr1_jax.models.qwen3 import Params
from socialr1_jax.rewards import RewardTerms
from socialr1_jax.run.checkpoints import first_fault
from socialr1_jax.runtime.files import append, finite
from socialr1_jax.runtime.ownership import begins_as, open_own, refuse_foreign_file
from socialr1_jax.runtime.processes import is_first
from socialr1_jax.runtime.terminal import printable
from socialr1_jax.sampling import Completion
from socialr1_jax.sampling.params import FinishReason

_BEGIN = b'{"step": 0, "group": '


class RolloutFile:
    """A JSONL file with one line per step: token ids, the sampler's log-probs, finish reasons and reward terms.

    Log-probs are read back as the same floats. NaN is written as null.
    """

    def __init__(self, path: str | Path, *, finished: int = 0) -> None:
        """Open the file for appending; drop lines of steps after `finished`, since those steps run again."""
        self._path = Path(os.path.realpath(path))
        if is_first() and self._path.exists():
            offsets = _line_offsets(self._path)
            with open_own(self._path, "rb+") as file:
                file.truncate(offsets[min(finished, len(offsets) - 1)])

    def append(self, step: int, rollouts: Rollouts) -> None:
        """Append the rollouts of step `step` (from 0)."""
        if not is_first():
            return
        line = {
            "step": step,
            "group": rollouts.group,
            "prompts": rollouts.prompts,
            "prompt_ids": [int(i) for i in rollouts.prompt_ids],
            "tokens": [completion.tokens for completion in rollouts.completions],
            "logprobs": [[float(x) for x in completion.logprobs] for completion in rollouts.completions],
            "finish_reason": [completion.finish_reason for completion in rollouts.completions],
            "terms": [finite(asdict(term)) for term in rollouts.terms],
            "replaced": rollouts.replaced,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        append(self._path, [json.dumps(line) + "\n"])


def refuse_foreign_rollouts(config: RunConfig) -> None:
    """Raise ConfigError unless the file `save_rollouts` is absent, empty or this run's own recording."""
    path, folder = Path(config.save_rollouts), Path(config.output_dir)
    if config.replay_rollouts and os.path.realpath(path) == os.path.realpath(config.replay_rollouts):
        raise ConfigError(f"save_rollouts: {path} is the file that replay_rollouts reads: give another one")
    refuse_foreign_file(path, partial(begins_as, begin=_BEGIN), "a recording of rollouts")
    if not path.exists() or not path.stat().st_size:
        return
    saved = folder / "config.yaml"
    before = load_config(RunConfig, saved) if saved.exists() else None
    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    same = before and all(
        os.path.realpath(getattr(before, name)) == os.path.realpath(getattr(config, name))
        for name in ("save_rollouts", "output_dir")  # a copy of a run must not cut the recording of the original
    )
    if before is None or not (inside or same):
        raise ConfigError(f"save_rollouts: {path} exists, and this run did not write it: give another file")


_Number = Annotated[float, Field(strict=True, ge=-1e30, le=1e30)]
_Score = Annotated[_Number | None, AfterValidator(lambda x: math.nan if x is None else x)]
_Token = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
_LogProb = Annotated[float, Field(strict=True, ge=-1e30, le=0.01)]  # rounding may leave a log-prob just above 0


class _Terms(BaseModel, extra="forbid"):
    total: _Score
    format: _Score
    outcome: _Score
    structure: _Score
    content: _Score
    length_window: _Score
    repetition: _Score
    weights: dict[str, _Number]
    extra: dict[str, _Score] = {}
    cause: str = ""


class _Line(BaseModel):
    step: Count
    group: Count
    prompts: list[Annotated[list[_Token], Field(min_length=1)]]
    prompt_ids: list[Count]
    tokens: list[list[_Token]]
    logprobs: list[list[_LogProb]]
    finish_reason: list[FinishReason]
    terms: list[_Terms]
    replaced: Count


class Replay(RolloutSource):
    """Source of rollouts that replays a RolloutFile.

    Raises ConfigError with file, line and field if the recording does not fit the run.
    """

    def __init__(self, config: RunConfig) -> None:
        self._path, self._config = Path(config.replay_rollouts), config
        if not self._path.is_file():
            raise ConfigError(f"replay_rollouts: there is no file {self._path}")
        self._offsets = _line_offsets(self._path)
        if len(self._offsets) - 1 < config.steps:
            raise ConfigError(
                f"replay_rollouts: {self._path} holds {len(self._offsets) - 1} whole steps, the run has "
                f"{config.steps}; lower steps"
            )

    def check(self, num_tokens: int) -> None:
        """Read all steps of the run once, so that a bad line fails at the start.

        Raises ConfigError for a token id of `num_tokens` or more, and the errors of `read`.
        """
        for step in range(self._config.steps):
            rollouts = self.read(step)
            rows = {"prompts": rollouts.prompts, "tokens": [completion.tokens for completion in rollouts.completions]}
            for name, lists in rows.items():
                for i, tokens in enumerate(lists):
                    if (largest := max(tokens, default=0)) >= num_tokens:
                        raise ConfigError(
                            f"{self._path} line {step + 1}: {name}.{i} holds token {largest}, the model has "
                            f"{num_tokens} tokens: give the model that these rollouts were sampled from"
                        )

    def __call__(self, params: Params, step: int, phase: Phase) -> Rollouts:
        return self.read(step)

    def read(self, step: int) -> Rollouts:
        """Return the recorded rollouts of step `step` (from 0)."""
        with self._path.open("rb") as file:
            file.seek(self._offsets[step])
            text = file.readline()
        try:
            line = _Line.model_validate(json.loads(text))
        except ValidationError as error:
            raise self._unfit(step, first_fault(error)) from None
        except (ValueError, RecursionError) as error:
            raise self._unfit(step, printable(f"not JSON: {error}", 300)) from None
        prompts, group = self._config.grpo.prompts_per_step, self._config.sampling.group_size
        recorded = line.step, len(line.prompts), line.group, len(line.tokens)
        if recorded != (step, prompts, group, prompts * group):
            raise ConfigError(
                f"{self._path} line {step + 1} holds step {line.step} with {len(line.prompts)} prompts x {line.group} "
                f"responses, the run wants step {step} with {prompts} x {group}: set grpo.prompts_per_step and "
                "sampling.group_size as they were in the recorded run"
            )
        self._check_lengths(step, line)
        return Rollouts(
            group=group,
            prompts=line.prompts,
            prompt_ids=line.prompt_ids,
            completions=[Completion(*row) for row in zip(line.tokens, line.logprobs, line.finish_reason, strict=True)],
            terms=[RewardTerms(**dict(term)) for term in line.terms],
            replaced=line.replaced,
        )

    def _check_lengths(self, step: int, line: _Line) -> None:
        responses = len(line.tokens)
        lengths = {"prompt_ids": len(line.prompts)} | dict.fromkeys(("logprobs", "finish_reason", "terms"), responses)
        for name, wanted in lengths.items():
            if len(getattr(line, name)) != wanted:
                raise self._unfit(step, f"{name}: {len(getattr(line, name))} of them, not {wanted}")
        for i, (tokens, logprobs) in enumerate(zip(line.tokens, line.logprobs, strict=True)):
            if len(tokens) != len(logprobs):
                raise self._unfit(step, f"logprobs.{i}: {len(logprobs)} of them for {len(tokens)} tokens")
        names, extra = line.terms[0].weights.keys(), line.terms[0].extra.keys()
        for i, term in enumerate(line.terms):
            if term.extra.keys() != extra:
                raise self._unfit(step, f"terms.{i}.extra: not the names of the first response")
            if term.weights.keys() != names or not {"outcome", "structure", "content", "tau", *extra} <= names:
                raise self._unfit(step, f"terms.{i}.weights: not those of outcome, structure, content, tau, and extra")
        for name, lists, setting, most in (
            ("prompts", line.prompts, "data.max_prompt_tokens", self._config.data.max_prompt_tokens),
            ("tokens", line.tokens, "sampling.max_new_tokens", self._config.sampling.max_new_tokens),
        ):
            if (longest := max(map(len, lists))) > most:
                raise ConfigError(
                    f"{self._path} line {step + 1}: {name} holds {longest} tokens, {setting} allows {most}: raise it"
                )

    def _unfit(self, step: int, reason: str) -> ConfigError:
        return ConfigError(
            f"{self._path} line {step + 1}: not rollouts of a step ({reason}): give a file that save_rollouts wrote"
        )


def _line_offsets(path: Path) -> list[int]:
    """Return the offset of each complete line and the end of the last; a kill may have truncated the next line."""
    offsets = [0]
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                offsets.append(offsets[-1] + len(line))
    return offsets
