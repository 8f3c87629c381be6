"""The GRPO trainer. One step, read from top to bottom in `_train_grpo`: sample, reward, advantages, update, log."""

import io
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from jax.sharding import Mesh
from pydantic import BaseModel, Field, ValidationError

from socialr1_jax.accuracy import baseline_figures
from socialr1_jax.command_line import Count
from socialr1_jax.compiles import compile_count
from socialr1_jax.config import RunConfig, save_config
from socialr1_jax.data.chat_template import read_template
from socialr1_jax.files import flattened, write_whole
from socialr1_jax.grpo.advantages import group_advantages
from socialr1_jax.grpo.mismatch import RATIO_ERROR_LIMIT, mismatch
from socialr1_jax.grpo.packing import Rows, pack_rows, padding_waste, shared_prompts
from socialr1_jax.grpo.update import init_state
from socialr1_jax.hf import files_dtype, load_hf, local_folder, save_hf
from socialr1_jax.interrupt import Interrupted, Stop, stop_on_signal
from socialr1_jax.mesh import fetch
from socialr1_jax.models.attention_trial import working_attention
from socialr1_jax.models.qwen3 import Qwen3
from socialr1_jax.ownership import refuse_foreign_folder
from socialr1_jax.processes import is_first, join, wait_for_all
from socialr1_jax.rewards import JudgeRefused
from socialr1_jax.rewards.extra import ExtraRewardError
from socialr1_jax.rewards.shares import ShareWatch
from socialr1_jax.rewards.truth_watch import TruthWatch
from socialr1_jax.sampling import Engine, SamplingParams
from socialr1_jax.sampling.text import stop_token_ids
from socialr1_jax.terminal import counted
from socialr1_jax.tokenizer_files import load_tokenizer
from socialr1_jax.training.checkpoints import AWAY, CheckpointError, Checkpoints, first_fault
from socialr1_jax.training.console import Bar, console, shown_log, working
from socialr1_jax.training.epochs import in_steps
from socialr1_jax.training.format_watch import FormatWatch
from socialr1_jax.training.metrics import RunLog
from socialr1_jax.training.programs import (
    MFU_FORMULA,
    about_devices,
    compile_programs,
    reference_weights,
    row_multiple,
    run_mesh,
    trainer_logprobs,
)
from socialr1_jax.training.provenance import about_run
from socialr1_jax.training.rollouts import Collector, Replay, RolloutFile, make_scorer, refuse_foreign_rollouts
from socialr1_jax.training.run_folder import (
    forget_functions,
    own_folder,
    refuse_another_run,
    resuming_text,
    save_own_files,
)
from socialr1_jax.training.run_questions import (
    evaluation_prompts,
    first_prompt,
    list_bad_rows,
    prompt_streams,
    read_run_questions,
    refuse_long_questions,
    understood,
    write_shortcuts,
)
from socialr1_jax.training.shared_questions import warn_of_shared
from socialr1_jax.training.start import cold_start, random_start
from socialr1_jax.training.summary import peak_bytes
from socialr1_jax.training.unscorable import UnscorableWindow
from socialr1_jax.training.validation import evaluate_questions

log = logging.getLogger(__name__)


class TrainingStopped(RuntimeError):
    """The run stopped itself; the message says why and where what it stopped at lies."""


def train_grpo(config: RunConfig) -> bool:
    """Trains `config.model.path` on `config.data.train`; True when the run is complete, False when it was interrupted.

    Everything goes into `config.output_dir`. A run that has a checkpoint there goes on from it, as if it had never
    ended. Ctrl-C or SIGTERM ends it at the next segment of a rollout, while it waits for the judge, or after the
    updates of a step, and saves; the unfinished step is done again.

    Raises ConfigError when the folder holds a run of another configuration, another program is at work in it or the
    mesh does not fit the devices; CheckpointError when no checkpoint there can be read; TrainingStopped when
    `grpo.most_skipped` updates in a row were not finite, when more than `rewards.most_unscorable` of the responses
    could not be scored, when the judge refuses or a file cannot be written; and what `load_hf` and `open_questions`
    raise.
    """
    join(config.distributed)
    console.quiet |= not is_first()
    mesh = run_mesh(config)
    folder = Path(config.output_dir)
    with jax.set_mesh(mesh), shown_log(config.quiet, config.verbose), own_folder(folder), stop_on_signal() as stop:
        try:
            return _train_grpo(config, mesh, stop)
        except OSError as error:
            kept = (folder, Path(config.save_rollouts or folder).parent)
            if not error.filename or not any(_is_within(error.filename, one) for one in kept):
                raise
            raise TrainingStopped(
                f"{error.filename}: {error.strerror}. Fix this and run the same command to resume from the last "
                "checkpoint"
            ) from error


def _train_grpo(config: RunConfig, mesh: Mesh, stop: Stop) -> bool:
    # ------------------------------------------------------------------------------------------------ what is needed
    folder, grpo = Path(config.output_dir), config.grpo
    refuse_foreign_folder(folder / "export", "config.json")
    if not config.replay_rollouts:  # before the earlier run is compared: their number says how many steps epochs are
        questions, heldout = read_run_questions(config)
        config, about_steps = in_steps(config, len(questions), grpo.prompts_per_step)
        for line in about_steps:
            console.print(line)
    refuse_another_run(config, folder / "config.yaml")
    if config.save_rollouts:
        refuse_foreign_rollouts(config)
    # Barrier: every process must look for an earlier run before any process writes to the folder.
    wait_for_all(f"start of {config.output_dir}", config.distributed.timeout)
    replay = Replay(config) if config.replay_rollouts else None
    backend = working_attention(config.model.attention, config.model.dtype)
    if replay is None:
        scorer = make_scorer(config, mesh, backend, stop)  # first: a key that is missing shows before weights are read
        list_bad_rows(config, questions, heldout)
        warn_of_shared(questions, heldout)
        write_shortcuts(questions, folder)
        if not config.model.random:
            refuse_long_questions(config, questions, heldout, base := local_folder(config.model.path))
            tokenizer = load_tokenizer(base)
    with working(f"loading {config.model.path or config.model.random}"):
        if config.model.random:
            model = random_start(config, mesh, () if replay else questions)
            if replay is None:
                refuse_long_questions(config, questions, heldout, Path(model.source or ""))
                tokenizer = load_tokenizer(model.source)
        else:
            model = load_hf(config.model.path, mesh, ignore_fields=config.model.ignore_fields)
    size = sum(x.size for x in jax.tree.leaves(model.params))
    kind = f"random weights ({config.model.random})" if config.model.random else config.model.path
    console.print(f"model: {kind}, {size / 1e6:,.1f} million parameters, vocabulary {model.num_tokens:,}")
    if replay is None:
        for line in (*understood(questions, heldout, config.evaluation.questions), *first_prompt(questions, tokenizer)):
            console.print(line)
    if config.cold_start:
        model = cold_start(config, model, tokenizer, questions)
    if replay:
        with working(f"checking {config.replay_rollouts}"):
            replay.check(model.num_tokens)
    export_dtype = config.model.export_dtype or ("float32" if config.model.random else files_dtype(model.source or ""))
    if replay is None:
        sampling = SamplingParams(
            n=config.sampling.group_size,
            seed=config.seed,
            stop_token_ids=stop_token_ids(model, tokenizer),
            **config.sampling.model_dump(exclude={"group_size", "segment_tokens", "max_rows"}),
        )
        prompts, spare = prompt_streams(config, questions, tokenizer)
        collect = Collector(
            config=config, sampling=sampling, prompts=prompts, spare=spare, tokenizer=tokenizer, scorer=scorer
        )
        sets = evaluation_prompts(config, heldout, tokenizer)
        baselines = {name: baseline_figures([prompt.example for prompt in part]) for name, part in sets.items()}
        format_watch = FormatWatch(read_template(tokenizer))
    if jax.default_backend() != "cpu" or mesh.size > 1:
        console.print(about_devices(mesh, backend))
    programs = compile_programs(config, model.config, model.num_tokens, backend)
    # No reference pass is made when the KL coefficient is 0.
    reference = (
        reference_weights(model.params, config.model.dtype, grpo.reference_memory) if grpo.kl_coefficient else None
    )
    state = init_state(model.params, programs.optimizer)
    # From here on the state holds the weights; what was read is let go.
    shape, source, num_tokens = model.config, model.source, model.num_tokens
    del model

    # ------------------------------------------------------------------------------------- where an earlier call was
    counts = _Counts(finished=0, evaluated=-1, skipped_in_a_row=0)
    unscorable, watch = UnscorableWindow(config.rewards), ShareWatch()
    truth_watch = TruthWatch(config.rewards.format_mode)
    kept: dict[str, Any] = {"counts": counts, "unscorable": unscorable, "shares": watch, "truth": truth_watch}
    kept |= {} if replay else {"prompts": collect}
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint, about_run(config, shape, source))
    before: Mapping[str, Any] = {}
    if found := checkpoints.restore(state, (*kept, "files")):
        state, before = found
        saved = folder / "checkpoints" / str(checkpoints.latest)
        for name, part in kept.items():
            try:
                part.set_state(before[name])
            except (KeyError, ValueError) as error:
                reason = first_fault(error) if isinstance(error, ValidationError) else error
                raise CheckpointError(f"{saved}: the state of {name} cannot be used ({reason}): {AWAY}") from error
        if not counts.evaluated <= counts.finished == int(saved.name) <= config.steps:
            raise CheckpointError(f"{saved} holds the run after step {counts.finished} of {config.steps}: {AWAY}")
        console.print(resuming_text(counts.finished, config.steps))
    runlog = RunLog(
        folder, config.tracking, config=config.model_dump(), first_step=counts.finished + 1 if found else 0,
        goes_on=before.get("files"),
    )  # fmt: skip
    rollout_file = RolloutFile(config.save_rollouts, finished=counts.finished) if config.save_rollouts else None
    if is_first():
        save_config(config, folder / "config.yaml")
        save_own_files(config)
    if jax.default_backend() != "cpu":  # where memory is short
        with working("trying the widest micro-batch"):
            programs.warm_up(state, reference, config.data.max_prompt_tokens + config.sampling.max_new_tokens)
        console.print(MFU_FORMULA)

    def engine() -> Engine:
        return Engine(
            params=state.params,
            config=shape,
            num_tokens=num_tokens,
            dtype=config.model.dtype,
            backend=backend,
            segment_tokens=config.sampling.segment_tokens,
            max_rows=config.sampling.max_rows,
            poll=stop.check,
        )

    def standing() -> dict[str, Any]:
        return {name: part.get_state() for name, part in kept.items()} | {"files": runlog.get_state()}

    def save(value: float | None = None) -> None:
        """Saves the last step that anything could be scored in: those after it changed nothing, and are done again."""
        checkpoints.save(last["counts"]["finished"], state, last, value)

    def save_whole() -> None:
        try:
            save()
            checkpoints.finish()
        except CheckpointError as error:
            raise TrainingStopped(str(error)) from error

    def halted(reason: str) -> TrainingStopped:
        try:
            save_whole()
        except TrainingStopped as error:
            return TrainingStopped(f"{reason}. {error}")
        return TrainingStopped(
            f"{reason}. {folder} was saved after step {last['counts']['finished']}. Run the same command to resume"
        )

    def evaluate() -> float | None:
        """The metric that checkpoints are compared by."""
        if replay is not None:  # which needs no sampler
            return None
        step, begun, metrics, rows = counts.finished, time.perf_counter(), dict[str, Any](), []
        asked = replace(sampling, n=config.evaluation.samples)
        for number, (name, questions) in enumerate(sets.items()):
            with working(f"evaluating on {name} after step {step}"):
                found, records = evaluate_questions(engine(), questions, asked, tokenizer, scorer)
            figures = found | baselines[name]
            metrics |= {f"{name}/{key}" if number else key: value for key, value in figures.items()}
            rows += [{"phase": "eval", "step": step, "set": name, **record} for record in records]
            console.print(
                f"step {step}: {name} accuracy {found['accuracy']:.3f} +- {found['accuracy_stderr']:.3f}, "
                + (f"pairs {found['pair_accuracy']:.3f}, " if "pair_accuracy" in found else "")
                + f"format {found['format_rate']:.2f}, reward {found['reward']:.2f}"
            )
        counts.evaluated = step
        runlog.metrics("eval", step, metrics | scorer.metrics() | {"seconds": time.perf_counter() - begun})
        runlog.rollouts(rows)
        best = flattened(metrics).get(config.checkpoint.best)
        return None if isinstance(best, str) else best  # best_rule is a name

    # ------------------------------------------------------------------------------------------------------ the steps
    last, complete, ended = standing(), False, time.perf_counter()
    bar = Bar("grpo", config.steps, counts.finished)
    try:
        with bar:
            while True:
                stop.check()
                scored = last["counts"]["finished"] == counts.finished
                look = counts.finished in (0, config.steps) or due(counts.finished, config.evaluation.every)
                begun = time.perf_counter()
                value = evaluate() if look and counts.evaluated != counts.finished else None
                ended += time.perf_counter() - begun
                last = standing() if scored else last
                wanted = checkpoints.is_best(value) or due(counts.finished, config.checkpoint.every)
                if scored and wanted and counts.finished:
                    save(value)
                checkpoints.check()
                if counts.finished == config.steps:
                    break
                laps = _Laps()
                between = laps.begun - ended  # logging, and waiting for a save; the devices rest

                # Sample a group of responses for each prompt of the step and reward them, or take those of the file.
                rollouts = replay(counts.finished) if replay else collect(engine(), counts.finished, laps.end)
                if rollout_file:
                    rollout_file.append(counts.finished, rollouts)

                # Compare each reward with its group. NaN: not scorable, or excluded; it leaves baseline and loss.
                rewards_pg = rollouts.shaped_rewards(config)
                trained = np.isfinite(rewards_pg)
                advantages_b = group_advantages(rewards_pg, grpo).reshape(-1)

                # Pack the sampler's own token ids, by length, into the micro-batches of each update.
                rows = pack_rows(
                    [prompt for prompt in rollouts.prompts for _ in range(rollouts.group)],
                    [completion.tokens for completion in rollouts.completions],
                    multiple=row_multiple(),
                    sampler_logprobs=[completion.logprobs for completion in rollouts.completions],
                    advantages=advantages_b.astype(np.float32),
                )
                rows.mask_bt[~trained.reshape(-1)] = False
                batches = programs.mini_batches(rows)
                laps.end("reward")

                # Log-probs that the loss needs, of the policy that sampled and of the reference.
                batches = programs.with_old(batches, state.params)
                laps.end("old")
                batches = programs.with_reference(batches, reference)
                laps.end("reference")
                stop.check()

                # Update. From here on the step is finished: the weights from before it are no more.
                results, computed = [], []
                for batch in batches:
                    state, result, arrays = programs.update(state, [one.rows.placed() for one in batch])
                    results.append(result)
                    computed.append(arrays)
                updates = [{name: float(fetch(x)) for name, x in result.items()} for result in results]
                ended = laps.end("update")
                trainer_bt = trainer_logprobs(batches, computed, rows.tokens_bt.shape)
                drift = mismatch(trainer_bt, rows.sampler_logp_bt, rows.mask_bt)
                counts.finished += 1

                # Log.
                parts = [one for batch in batches for one in batch]
                scoring = scorer.metrics() if replay is None else {}
                truth, partings = dict[str, float](), list[str]()
                if replay is None:
                    truth, partings = truth_watch(rollouts.examples, rollouts.terms, rollouts.texts)
                    scoring["dropped_prompts"] = collect.dropped(counts.finished)
                metrics = (
                    rollouts.metrics()
                    | scoring
                    | truth
                    | {
                        "reward/shaped": float(rewards_pg[trained].mean()) if trained.any() else float("nan"),
                        **_over_updates(updates),
                        **{f"mismatch/{name}": value for name, value in drift.items()},
                        "padding_waste": padding_waste(parts),
                        "shared_prompt_tokens": shared_prompts(parts, rows),
                        "learning_rate": float(programs.schedule(max(0, int(state.updates) - 1))),
                        "tokens_per_second": sum(len(c.tokens) for c in rollouts.completions) / laps.total,
                        **programs.throughput(parts, laps.seconds["seconds/update"]),
                        **laps.seconds,
                        "seconds/between": between,
                        "memory_peak_bytes": peak_bytes(),
                        "compiled_programs": compile_count(),
                    }
                )
                runlog.metrics("grpo", counts.finished, metrics)
                if replay is None:
                    records = collect.records(rollouts, advantages_b)
                    runlog.rollouts({"phase": "grpo", "step": counts.finished, **record} for record in records)
                bar.advance(
                    f"reward {metrics['reward/total']:.2f}  accuracy {metrics['accuracy']:.2f}  "
                    f"format {metrics['format_rate']:.2f}  tokens {metrics['response_tokens']:.0f}  "
                    f"kl {metrics['kl']:.4f}  {laps.total:.1f} s"
                )
                if drift["ratio_error"] > RATIO_ERROR_LIMIT:
                    log.warning(
                        "step %d: the sampler's probabilities differ from the trainer's by a factor of %.3f in the "
                        "mean (largest difference of log-probs %.2f)",
                        *(counts.finished, drift["ratio_error"], drift["max"]),
                    )
                shown = rollouts.texts[:50]
                paid = float((np.nan_to_num(rollouts.rewards_pg) != 0).mean())
                figures = (metrics["format_rate"], metrics["truncated"], paid)
                if replay is None and (warning := format_watch(*figures, shown)):
                    log.warning("step %d: %s", counts.finished, warning)
                shares = {name: x for name, x in metrics.items() if name.startswith("variance_share/")}
                for warning in [*watch(shares), *partings]:
                    log.warning("step %d: %s", counts.finished, warning)
                unscorable.add(rollouts.terms)
                problem = unscorable.problem
                for number, update in enumerate(updates):
                    counts.skipped_in_a_row = counts.skipped_in_a_row + 1 if update["skipped"] else 0
                    if counts.skipped_in_a_row >= grpo.most_skipped:
                        file = _save_rows(rows, number, len(updates), folder / f"skipped_step_{counts.finished}.npz")
                        problem = (
                            f"{counts.skipped_in_a_row} updates in a row had a loss, gradient or log-prob that is not "
                            f"finite; weights and moments are those from before them, the last one's rows are in {file}"
                        )
                        counts.skipped_in_a_row = 0
                        break
                last = standing() if trained.any() else last
                if problem:
                    last["unscorable"] = []  # whoever goes on has mended it
                    raise halted(problem)
        last = standing()
        save_whole()
        save_hf(Qwen3(shape, state.params, source=source, num_tokens=num_tokens), folder / "export", export_dtype)
        complete = True
        if replay is None and (dropped := collect.dropped(counts.finished)):
            most = f"data.max_prompt_tokens={config.data.max_prompt_tokens}"
            console.print(f"left out: {counted(dropped, 'prompt')}, longer than {most} or bad rows")
    except Interrupted:
        save_whole()
        console.print(f"saved after step {last['counts']['finished']} of {config.steps}")
    except (JudgeRefused, ExtraRewardError) as error:
        if is_first() and isinstance(error, ExtraRewardError):
            forget_functions(folder)
        raise halted(str(error)) from error
    except CheckpointError as error:  # checkpoint.on_failure is stop
        raise TrainingStopped(str(error)) from error
    finally:
        if replay is None:
            scorer.close()
            collect.close()
        checkpoints.close()
        runlog.close()
    wait_for_all(f"end of {config.output_dir}", config.distributed.timeout)
    return complete


def _is_within(file: str, folder: Path) -> bool:
    return Path(file).absolute().is_relative_to(folder.absolute())


class _Counts(BaseModel):
    """What a run counts."""

    finished: Count  # steps
    evaluated: Annotated[int, Field(strict=True, ge=-1)]  # the step of the last evaluation
    skipped_in_a_row: Count  # updates

    def get_state(self) -> dict[str, int]:
        return self.model_dump()

    def set_state(self, state: Mapping[str, int]) -> None:
        self.__dict__.update(_Counts.model_validate(state))


class _Laps:
    """Wall seconds of the phases of one step; a phase that comes again adds up."""

    def __init__(self) -> None:
        self.begun = self._last = time.perf_counter()
        self._laps = dict.fromkeys(("rollout", "reward", "old", "reference", "update"), 0.0)

    def end(self, name: str) -> float:
        """Of this phase; the time now."""
        now = time.perf_counter()
        self._laps[name] += now - self._last
        self._last = now
        return now

    @property
    def total(self) -> float:
        return self._last - self.begun

    @property
    def seconds(self) -> dict[str, float]:
        return {"seconds": self.total} | {f"seconds/{name}": seconds for name, seconds in self._laps.items()}


def _over_updates(updates: list[dict[str, float]]) -> dict[str, float]:
    """Of the step's updates: extremes of extremes, sums of counts, means of the rest; non-finite ones left out."""
    reduce: dict[str, Any] = {"_max": np.max, "_min": np.min, "ount": np.sum, "pped": np.sum}
    found = {}
    for name in updates[0]:
        values = np.array([update[name] for update in updates])
        finite = values[np.isfinite(values)]
        found[name] = float(reduce.get(name[-4:], np.mean)(finite)) if finite.size else float("nan")
    return found


def _save_rows(rows: Rows, number: int, updates: int, file: Path) -> Path:
    """Writes the rows of update `number` of the step, as NumPy arrays."""
    count = len(rows.lengths_b) // updates
    part = rows.take(slice(number * count, (number + 1) * count))
    if is_first():
        np.savez(content := io.BytesIO(), **{name: x for name, x in vars(part).items() if x is not None})
        write_whole(file, content.getvalue())
    return file


def due(step: int, every: int) -> bool:
    """Whether what happens every so many steps happens after this one; 0 = never."""
    return every > 0 and step % every == 0
