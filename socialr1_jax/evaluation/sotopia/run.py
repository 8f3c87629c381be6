"""SOTOPIA from configuration to results: players, judge, files and notes."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from socialr1_jax.chat.answers import SettingNames
from socialr1_jax.config.evaluation import ALLOW_SELF, EvaluateConfig, ProtocolName
from socialr1_jax.evaluation.metrics import Metric
from socialr1_jax.evaluation.respondents import Endpoint, LocalModel, Respondent, make_respondent
from socialr1_jax.evaluation.rows import JsonRow
from socialr1_jax.evaluation.runner import TaskResult, folder_of, skipped_notes
from socialr1_jax.evaluation.sotopia import profiles
from socialr1_jax.evaluation.sotopia.episode import Rules, Setting, episodes_of, run_id
from socialr1_jax.evaluation.sotopia.figures import figures
from socialr1_jax.evaluation.sotopia.judging import DIMENSIONS, PROMPT, SCHEMA, judge
from socialr1_jax.evaluation.sotopia.models import EndpointSpeaker, LocalSpeaker
from socialr1_jax.evaluation.sotopia.official import judge_schema, rules_of
from socialr1_jax.evaluation.sotopia.play import Played, Speaker, play, read_episodes
from socialr1_jax.evaluation.sotopia.profiles import SETS
from socialr1_jax.evaluation.task import BenchmarkError, Data
from socialr1_jax.evaluation.wording import FILE, note_on, with_wording, wording_of
from socialr1_jax.runtime.terminal import counted

NAME = "sotopia"
PROTOCOLS: tuple[ProtocolName, ...] = ("official",)
TEMPERATURE = 0.7  # the agents' default in the authors' code
EPISODES, VERDICTS = "samples_sotopia.jsonl", "verdicts_sotopia.jsonl"
_PARTNER = SettingNames("partner", "partner_url", "partner_options")
_JUDGE = SettingNames("judge", "judge_url", "judge_options")
ABOUT = SimpleNamespace(  # what other benchmarks state in their `Task`
    title="SOTOPIA: goals in conversations, seven scores by a judge",
    source="sotopia-lab/sotopia-space @ 12c13d8 (profiles), sotopia-lab/sotopia-pi @ 245fa7b (used_env.json)",
    licence="code MIT; data: cc, by the card",
    published=(profiles.PAIRS, "pairs of agents"),
)


class Players(NamedTuple):
    """Tested model, partner and judge; the tested model may be its own partner, and the judge may be None."""

    tested: Respondent
    partner: Respondent
    judge: Respondent | None

    def close(self) -> None:
        for player in self:
            if player:
                player.close()


def load_benchmark(data_dir: Path, rules: Rules | None = None) -> Data:
    """Load the five files, with the authors' wording if available.

    Raises BenchmarkError, also if the wording is of a different version than `rules`.
    """
    folder = folder_of(NAME, ABOUT.source, data_dir)
    benchmark = with_wording(NAME, folder, profiles.load(folder))
    if rules and benchmark.wording and (theirs := rules_of(benchmark.wording)) != rules:
        raise BenchmarkError(
            f"{folder / FILE}: its texts are of version {theirs}, but sotopia_rules is {rules}: set "
            f"sotopia_rules={theirs}, or create the file from a checkout of that version"
        )
    return benchmark


def make_players(config: EvaluateConfig, tested: Respondent) -> Players:
    """Load the configured models; weights that are already loaded are shared.

    Both agents use the configured sampling, with `TEMPERATURE` as the default. The judge is greedy and thinks. Raises
    the errors of `make_respondent`, and BenchmarkError if two models have the same weights without `allow_self`.
    """
    if "temperature" not in config.model_fields_set:
        config = config.model_copy(update={"temperature": TEMPERATURE})
        tested = tested.sampled_as(config) if isinstance(tested, LocalModel) else make_respondent(config)
    known = {(config.model, config.base_url): tested}

    def player(names: SettingNames, model: str, url: str, **changes: Any) -> Respondent:
        settings = config.model_copy(update={"model": model, "base_url": url, "step": "latest", **changes})
        loaded = known.get((model, url))
        if isinstance(loaded, LocalModel):
            return loaded.sampled_as(settings)
        respondent = make_respondent(settings, names)
        weights = respondent.identity().get("sha256")
        if not config.allow_self and weights in {other.identity().get("sha256", "") for other in known.values()}:
            raise BenchmarkError(f"{names.model}: {model} has the weights of another player; {ALLOW_SELF}")
        known[model, url] = respondent
        return respondent

    named = (config.partner or config.model, config.partner_url or ("" if config.partner else config.base_url))
    shared = named in known and not config.partner_options
    partner = tested if shared else player(_PARTNER, *named, options=config.partner_options)
    if config.predict_only:
        return Players(tested, partner, None)
    scoring = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "thinking": "on", "api_key_env": config.judge_key_env}
    judge = player(_JUDGE, config.judge, config.judge_url, options=config.judge_options, **scoring)
    return Players(tested, partner, judge)


def run_sotopia(config: EvaluateConfig, benchmark: Data, players: Players, said: Callable[[str], None]) -> TaskResult:
    """Play and judge the episodes missing in `samples_sotopia.jsonl` and `verdicts_sotopia.jsonl` of `config.output`.

    Calls `said` with a progress text for each episode and each verdict, `work` times in all. Raises BenchmarkError.
    """
    started, folder = time.perf_counter(), Path(config.output)
    settings = settings_of(config, benchmark)
    who: dict[str, Any] = {
        "rules": config.sotopia_rules,
        "tested": players.tested.identity(),
        "partner": players.partner.identity(),
        "tokens": turn_limit(config),
    }
    worded = {"wording": benchmark.wording.sha256} if benchmark.wording else {}
    who |= worded
    played, filled = _play(config, settings, players, folder / EPISODES, run_id(who), said)
    verdicts: Mapping[str, JsonRow] = {}
    if players.judge:
        scores = {"judge": players.judge.identity(), "tokens": judge_limit(config), "prompt": PROMPT} | worded
        who |= scores
        schema = judge_schema(benchmark.wording, DIMENSIONS) if benchmark.wording else SCHEMA
        # The players' KV caches are freed by now, so the judge has the devices to itself.
        speaker = _speaker(config, players.judge, judge_limit(config), len(played.episodes), 1, schema)
        verdicts = judge(
            settings,
            played.episodes,
            speaker,
            folder / VERDICTS,
            run=run_id(scores),
            on_verdict=lambda row: said(row["status"]),
        )
    return _result(config, benchmark, settings, played, verdicts, who | filled, time.perf_counter() - started)


def settings_of(config: EvaluateConfig, benchmark: Data) -> list[Setting]:
    settings = episodes_of(benchmark, config.sotopia_set, config.num_samples, config.sotopia_rules)
    return settings[: config.limit or None]


def work(config: EvaluateConfig, benchmark: Data) -> int:
    """Return the number of progress texts of `run_sotopia`: one for each episode and each verdict."""
    return len(settings_of(config, benchmark)) * (1 if config.predict_only else 2)


def turn_limit(config: EvaluateConfig) -> int:
    """Return the token limit of a turn, thoughts included."""
    return config.max_new_tokens or config.turn_tokens + (config.thinking_tokens if config.thinking != "off" else 0)


def judge_limit(config: EvaluateConfig) -> int:
    """Return the token limit of a verdict, thoughts included."""
    return config.judge_tokens + config.thinking_tokens


def _play(
    config: EvaluateConfig,
    settings: Sequence[Setting],
    players: Players,
    file: Path,
    run: str,
    said: Callable[[str], None],
) -> tuple[Played, dict[str, float]]:
    """Play the episodes; return them, and the share of busy rows of local models while turns waited."""
    distinct = {id(model): model for model in players[:2]}
    here = sum(isinstance(model, LocalModel) for model in distinct.values())
    speakers = {key: _speaker(config, m, turn_limit(config), len(settings), here) for key, m in distinct.items()}
    tested, partner = (speakers[id(model)] for model in players[:2])
    known = read_episodes(file).keys() & {one.key for one in settings}
    for key in known:
        said(f"{key} is known")
    for model in distinct.values():
        if known and isinstance(model, Endpoint):
            model.answered_before()
    played = play(
        settings,
        tested,
        partner,
        file,
        run=run,
        on_end=lambda row: said(f"{counted(len(row['turns']), 'turn')}, {row['ended']}"),
    )
    busy = [x for model in speakers.values() if isinstance(model, LocalSpeaker) for x in model.busy]
    return played, {"rows_busy": sum(busy) / len(busy)} if busy else {}


def _speaker(
    config: EvaluateConfig,
    model: Respondent,
    new_tokens: int,
    episodes: int,
    here: int,
    schema: Mapping[str, Any] | None = None,
) -> Speaker:
    """Return the speaker of a model. `here`: number of models that share the devices."""
    if isinstance(model, Endpoint):
        return EndpointSpeaker(model, new_tokens=new_tokens, schema=schema)
    assert isinstance(model, LocalModel)
    from socialr1_jax.sampling.memory import free_memory

    free = free_memory()
    return LocalSpeaker(
        model,
        new_tokens=new_tokens,
        prompt_tokens=config.prompt_tokens,
        rows=max(1, episodes // 2),
        memory=free and free // here,
    )


def _result(
    config: EvaluateConfig,
    benchmark: Data,
    settings: Sequence[Setting],
    played: Played,
    verdicts: Mapping[str, JsonRow],
    about: dict[str, Any],
    seconds: float,
) -> TaskResult:
    metrics: dict[str, Metric] = {}
    status: dict[str, dict[str, float]] = {}
    temperature = about["tested"]["temperature"]
    details, notes = about, [f"rules of SOTOPIA {config.sotopia_rules}, agents at temperature {temperature}"]
    notes += [f"{one}: figures of a model with itself are not comparable" for one in config.same_players]
    notes += [*benchmark.notes, note_on(NAME, benchmark), *skipped_notes(NAME, config, PROTOCOLS)]
    complete = not played.failed
    for name in SETS if config.sotopia_set == "all" else (config.sotopia_set,):
        chosen = [one for one in settings if one.scenario.is_in(name)]
        if not chosen:
            continue
        of_set = figures(chosen, played.episodes, verdicts)
        complete &= of_set.counts["judged"] == of_set.counts["expected"] or config.predict_only
        notes.append(f"{name}: " + ", ".join(f"{count} {what}" for what, count in of_set.counts.items() if count))
        details[name] = {"counts": dict(of_set.counts), "rates": dict(of_set.rates)}
        if not config.predict_only:
            shown = {**of_set.figures, **{f"partner/{key}": figure for key, figure in of_set.partner.items()}}
            details[name]["figures"] = {key: figure._asdict() for key, figure in shown.items()}
            metrics |= {f"official_{name}/{k}": Metric(x.value, x.stderr, x.n) for k, x in shown.items()}
            rates = of_set.rates  # of the tested agent's turns; of episodes whose judge failed
            status[f"official_{name}"] = {
                "ok": 1 - rates["parse_failures"],
                "truncated": rates["truncated"],
                "unparsable": rates["parse_failures"],
                "judge_failed": rates["judge_failed"],
            }
    unjudged = [row["cause"] for row in verdicts.values() if row["status"] != "ok"]
    if unjudged:
        notes.append(f"{counted(len(unjudged), 'verdict')} failed ({unjudged[0]}); run the same command to retry")
    failure = next(iter(played.failed.values()), "") if not played.episodes else ""
    if unjudged and len(unjudged) == len(verdicts):
        failure = f"no verdict of the judge: {unjudged[0]}"
    if played.failed:
        causes = sorted(set(played.failed.values()))
        notes.append(f"{counted(len(played.failed), 'episode')} abandoned ({causes[0]}); run the same command to retry")
    return TaskResult(
        task=NAME,
        metrics=metrics,
        status=status,
        replies=sum(len(row["turns"]) for row in played.episodes.values()),
        complete=complete,
        failure=failure,
        wording=wording_of(NAME, benchmark),
        files=dict(benchmark.files),
        notes=notes,
        details=details,
        seconds=seconds,
    )
