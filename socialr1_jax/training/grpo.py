"""The GRPO trainer. `_train` is one step from top to bottom: sample and reward, pack, update, log."""

import io
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from socialr1_jax.config.run import RunConfig
from socialr1_jax.data.chat_template import Thoughts, thoughts_in_prompt
from socialr1_jax.data.examples import Example
from socialr1_jax.grpo.packing import MicroBatch, Rows, padding_waste, shared_prompts
from socialr1_jax.grpo.rollouts import PHASES, Rollouts, RolloutSource
from socialr1_jax.grpo.step import MFU_FORMULA, GrpoStep, Packed, Updated, make_step
from socialr1_jax.grpo.update import init_state
from socialr1_jax.models.attention import Backend
from socialr1_jax.models.attention_trial import working_attention, working_decode_kernel
from socialr1_jax.models.qwen3 import Qwen3
from socialr1_jax.questions.sources import Questions
from socialr1_jax.rewards import JudgeRefused
from socialr1_jax.rewards.extra import ExtraRewardError
from socialr1_jax.run.console import Bar, console, working
from socialr1_jax.run.epochs import in_steps
from socialr1_jax.run.folder import forget_functions, refuse_another_run, save_own_files
from socialr1_jax.run.provenance import about_run
from socialr1_jax.run.questions import (
    cold_start_questions,
    first_prompt,
    list_bad_rows,
    read_run_questions,
    refuse_long_questions,
    understood,
    warn_of_shared,
    write_shortcuts,
)
from socialr1_jax.run.run import Laps, Run, running, say_devices
from socialr1_jax.run.summary import peak_bytes
from socialr1_jax.runtime.compiles import compile_count
from socialr1_jax.runtime.files import flattened, write_whole
from socialr1_jax.runtime.interrupt import Stop
from socialr1_jax.runtime.ownership import refuse_foreign_folder
from socialr1_jax.runtime.processes import is_first, wait_for_all
from socialr1_jax.runtime.terminal import counted
from socialr1_jax.training.recording import Replay, RolloutFile, refuse_foreign_rollouts
from socialr1_jax.training.sampler import Sampler, make_sampler, make_scorer
from socialr1_jax.training.start import cold_start, first_model
from socialr1_jax.training.watches import Watches
from socialr1_jax.weights.hf_export import save_hf
from socialr1_jax.weights.hf_folder import files_dtype, local_folder
from socialr1_jax.weights.tokenizer_files import load_tokenizer

log = logging.getLogger(__name__)


def train_grpo(config: RunConfig) -> bool:
    """Train `config.model.path` on `config.data.train`; return True if the run is complete, False if interrupted.

    All output goes to `config.output_dir`. If it holds a checkpoint, the run resumes from it with identical results.
    Ctrl-C or SIGTERM stops the run at the next segment of a rollout, while it waits for the judge, or after a step's
    updates. The run then saves a checkpoint; the unfinished step is repeated on resume.

    Raises ConfigError if the folder holds a run of another configuration or is locked by another program, or if the
    mesh does not fit the devices. Raises CheckpointError if no checkpoint there is readable. Raises TrainingStopped if
    `grpo.most_skipped` updates in a row were not finite, if more than `rewards.most_unscorable` of the responses were
    unscorable, if the judge rejects every request or if a file cannot be written. Also raises the errors of `load_hf`
    and `open_questions`.
    """
    with running(config) as stop:
        opened = _open(config, stop)
        run, source = opened.run, opened.source
        with closing(source), run:
            try:
                _train(opened)
            except ExtraRewardError:
                if is_first():
                    forget_functions(run.folder)  # the run can resume with a corrected function
                raise
            run.finish()
            shape = opened.step.model
            model = Qwen3(shape, run.state.params, source=opened.model_source, num_tokens=opened.num_tokens)
            save_hf(model, run.folder / "export", opened.export_dtype)
            if dropped := source.dropped(run.counts.finished):
                most = f"data.max_prompt_tokens={config.data.max_prompt_tokens}"
                console.print(f"left out: {counted(dropped, 'prompt')}, longer than {most} or bad rows")
    return run.complete


class _Opened(NamedTuple):
    """A run that is ready to train. `model_source` is where the weights came from, for the export."""

    config: RunConfig
    run: Run
    source: RolloutSource
    step: GrpoStep
    watches: Watches
    model_source: str | None
    num_tokens: int
    export_dtype: str


def _train(opened: _Opened) -> None:
    config, run, source, step = opened.config, opened.run, opened.source, opened.step
    recording = RolloutFile(config.save_rollouts, finished=run.counts.finished) if config.save_rollouts else None
    laps, bar = Laps(), Bar("grpo", config.steps, run.counts.finished)
    with bar:
        for number in run.steps(lambda finished: _evaluate(opened, laps, finished), config.evaluation.every):
            laps.begin(PHASES)

            # Sample a group of responses for each prompt of the step and reward them, or read them from a recording.
            rollouts = source(run.state.params, number, laps.phase)
            if recording:
                recording.append(number, rollouts)

            # Compare each reward with its group, and pack the responses into the micro-batches of each update.
            packed = step.pack(rollouts)
            laps.end("reward")

            # Compute the log-probs that the loss needs, then update.
            updates = step.log_probs(run.state.params, packed.updates, laps.phase)
            run.stop.check()  # update() donates the old state, so the step can no longer be abandoned
            run.state, updated = step.update(run.state, updates)
            laps.end("update")
            run.counts.finished += 1

            # Log, and stop if the run cannot continue.
            metrics = _metrics(opened, rollouts, packed, updates, updated, laps)
            _log(opened, rollouts, packed, metrics, bar)
            unscorable = opened.watches.problem(rollouts)
            problem = _skipped(opened, packed.rows, updated.metrics) or unscorable
            if np.isfinite(packed.rewards_pg).any():
                run.keep()
            if problem:
                run.reset("unscorable", [])  # a resumed run starts with a clean window
                raise run.halted(problem)


# -------------------------------------------------------------------------------------------------------- its parts


def _open(config: RunConfig, stop: Stop) -> _Opened:
    folder, questions = Path(config.output_dir), None
    refuse_foreign_folder(folder / "export", "config.json")
    if not config.replay_rollouts:  # first: the number of questions turns epochs into steps
        questions = read_run_questions(config)
        config, about_steps = in_steps(config, len(questions[0]), config.grpo.prompts_per_step)
        for line in about_steps:
            console.print(line)
    refuse_another_run(config, folder / "config.yaml")
    if config.save_rollouts:
        refuse_foreign_rollouts(config)
    # Barrier: every process must look for an earlier run before any process writes to the folder.
    wait_for_all(f"start of {config.output_dir}", config.distributed.timeout)
    backend = working_attention(config.model.attention, config.model.dtype)
    source: RolloutSource
    if questions:
        model, sampler, thoughts = _sampled(config, *questions, backend, stop)
        with jax.set_mesh(sampler.mesh):  # whose devices have other heads than those of training
            decoding = working_decode_kernel(config.sampling.attention, model.config, config.model.dtype)
        say_devices(f"{backend}, of decoding {decoding}")
        source, watches, prompts = sampler, Watches(config, thoughts), {"prompts": sampler}
    else:
        source = replay = Replay(config)
        model = _loaded(config, ())
        with working(f"checking {config.replay_rollouts}"):
            replay.check(model.num_tokens)
        watches, prompts = Watches(config, None), {}
        say_devices(backend)
    step = make_step(config, model.config, model.num_tokens, model.params, backend)
    state = init_state(model.params, step.programs.optimizer, config.optimizer.moments_memory)
    about, of_export = about_run(config, model.config, model.source), (model.source, model.num_tokens)
    export_dtype = files_dtype(model.source or "") if not config.model.random else "float32"
    del model  # `state` owns the weights now
    run = Run(config, state, {**watches.parts, **prompts}, about, stop, halting=(JudgeRefused, ExtraRewardError))
    del state  # a restored checkpoint may have replaced it
    if is_first():
        save_own_files(config)
    if jax.default_backend() != "cpu":  # accelerator memory is limited: fail now if it does not fit
        with working("trying the widest micro-batch"):
            step.warm_up(run.state, config.data.max_prompt_tokens + config.sampling.max_new_tokens)
        console.print(MFU_FORMULA)
    return _Opened(config, run, source, step, watches, *of_export, config.model.export_dtype or export_dtype)


def _sampled(
    config: RunConfig, questions: Questions, heldout: Mapping[str, Questions], backend: Backend, stop: Stop
) -> tuple[Qwen3, Sampler, Thoughts]:
    """Return model (after its cold start), sampler and the `Thoughts` of prompts of a run that samples its rollouts."""
    scorer = make_scorer(config, backend, stop)  # first: a missing key fails before the weights are loaded
    list_bad_rows(config, questions, heldout)
    warn_of_shared(questions, heldout)
    taught = cold_start_questions(config, questions) if config.cold_start else questions
    write_shortcuts(questions, Path(config.output_dir))
    if not config.model.random:
        refuse_long_questions(config, questions, heldout, base := local_folder(config.model.path))
        tokenizer = load_tokenizer(base)
    model = _loaded(config, questions)
    if config.model.random:
        refuse_long_questions(config, questions, heldout, Path(model.source or ""))
        tokenizer = load_tokenizer(model.source)
    for line in (*understood(questions, heldout, config.evaluation.questions), *first_prompt(questions, tokenizer)):
        console.print(line)
    sampler = make_sampler(config, model, tokenizer, scorer, backend, questions, heldout, stop.check)
    if config.cold_start:  # after the sampler, which may refuse settings
        model = cold_start(config, model, tokenizer, taught)
    return model, sampler, thoughts_in_prompt(tokenizer)


def _loaded(config: RunConfig, questions: Sequence[Example]) -> Qwen3:
    """Load or initialise the model; a random model's tokenizer may be built from `questions`."""
    path, random = config.model.path, config.model.random
    with working(f"loading {path or random}"):
        model = first_model(config, questions)
    size = sum(x.size for x in jax.tree.leaves(model.params))
    kind = f"random weights ({random})" if random else path
    console.print(f"model: {kind}, {size / 1e6:,.1f} million parameters, vocabulary {model.num_tokens:,}")
    return model


def _evaluate(opened: _Opened, laps: Laps, finished: int) -> float | None:
    """Evaluate and log; return the metric that selects the best checkpoint, or None."""
    run = opened.run
    with laps.left_out():
        evaluation = opened.source.evaluate(run.state.params, finished)
    if evaluation is None:
        return None
    metrics, records = evaluation
    run.counts.evaluated = finished
    run.log.metrics("eval", finished, metrics)
    run.log.rollouts(records)
    best = flattened(metrics).get(opened.config.checkpoint.best)
    return None if isinstance(best, str) else best  # best_rule is a name


def _metrics(
    opened: _Opened, rollouts: Rollouts, packed: Packed, updates: list[list[MicroBatch]], updated: Updated, laps: Laps
) -> dict[str, Any]:
    """Return the metrics of a step for metrics.jsonl; docs/metrics.md explains each."""
    run, step, rows = opened.run, opened.step, packed.rows
    rewards_pg, batches = packed.rewards_pg, [batch for update in updates for batch in update]
    trained = np.isfinite(rewards_pg)
    seconds = laps.seconds
    return {
        **rollouts.metrics(),
        **opened.source.metrics(run.counts.finished),
        **opened.watches.truth(rollouts),
        "reward/shaped": float(rewards_pg[trained].mean()) if trained.any() else float("nan"),
        **_over_updates(updated.metrics),
        **{f"mismatch/{name}": value for name, value in step.mismatch(rows, updates, updated.arrays).items()},
        "padding_waste": padding_waste(batches),
        "shared_prompt_tokens": shared_prompts(batches, rows),
        "learning_rate": float(step.programs.schedule(max(0, int(run.state.updates) - 1))),
        "tokens_per_second": sum(len(c.tokens) for c in rollouts.completions) / laps.total,
        **step.throughput(batches, seconds["seconds/update"]),
        **seconds,
        "memory_peak_bytes": peak_bytes(),
        "compiled_programs": compile_count(),
    }


def _log(opened: _Opened, rollouts: Rollouts, packed: Packed, metrics: Mapping[str, Any], bar: Bar) -> None:
    run, number = opened.run, opened.run.counts.finished
    run.log.metrics("grpo", number, metrics)
    if records := list(opened.source.records(rollouts, packed.advantages_b)):
        run.log.rollouts({"phase": "grpo", "step": number, **record} for record in records)
    bar.advance(
        f"reward {metrics['reward/total']:.2f}  accuracy {metrics['accuracy']:.2f}  "
        f"format {metrics['format_rate']:.2f}  tokens {metrics['response_tokens']:.0f}  "
        f"kl {metrics['kl']:.4f}  {metrics['seconds']:.1f} s"
    )
    for warning in opened.watches.warnings(rollouts, metrics):
        log.warning("step %d: %s", number, warning)


# Reductions over the updates of a step; other metrics are averaged. Non-finite values are ignored.
_REDUCTIONS: dict[str, Any] = {"ratio_max": np.max, "ratio_min": np.min, "nonfinite_count": np.sum, "skipped": np.sum}


def _over_updates(updates: list[dict[str, float]]) -> dict[str, float]:
    reduced = {}
    for name in updates[0]:
        values = np.array([update[name] for update in updates])
        finite = values[np.isfinite(values)]
        reduced[name] = float(_REDUCTIONS.get(name, np.mean)(finite)) if finite.size else float("nan")
    return reduced


def _skipped(opened: _Opened, rows: Rows, updates: list[dict[str, float]]) -> str:
    """Count consecutive skipped updates; return why the run must stop if there are too many, else ""."""
    run, counts = opened.run, opened.run.counts
    for number, update in enumerate(updates):
        counts.skipped_in_a_row = counts.skipped_in_a_row + 1 if update["skipped"] else 0
        if counts.skipped_in_a_row >= opened.config.grpo.most_skipped:
            file = _save_rows(rows, number, len(updates), run.folder / f"skipped_step_{counts.finished}.npz")
            times, counts.skipped_in_a_row = counts.skipped_in_a_row, 0
            return (
                f"{times} updates in a row had a loss, gradient or log-prob that is not finite; they left weights and "
                f"moments unchanged; the rows of the last one are in {file}"
            )
    return ""


def _save_rows(rows: Rows, number: int, updates: int, file: Path) -> Path:
    count = len(rows.lengths_b) // updates
    part = rows.take(slice(number * count, (number + 1) * count))
    if is_first():
        np.savez(content := io.BytesIO(), **{name: x for name, x in vars(part).items() if x is not None})
        write_whole(file, content.getvalue())
    return file
