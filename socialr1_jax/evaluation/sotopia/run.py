"""SOTOPIA from settings to results: who plays, who judges, and what is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from socialr1_jax.chat.answers import SettingNames
from socialr1_jax.config.evaluation import ALLOW_SELF, EvaluateConfig, ProtocolName
from socialr1_jax.evaluation.metrics import Metric
from socialr1_jax.evaluation.respondents import Endpoint, LocalModel, Respondent, make_respondent
from socialr1_jax.evaluation.rows import JsonRow
from socialr1_jax.evaluation.runner import TaskResult, folder_of, skipped_notes
from socialr1_jax.evaluation.sotopia import profiles
from socialr1_jax.evaluation.sotopia.episode import Rules, Setting, episodes_of, run_id
from socialr1_jax.evaluation.sotopia.figures import SetFigures, figures
from socialr1_jax.evaluation.sotopia.judging import DIMENSIONS, PROMPT, SCHEMA, judge
from socialr1_jax.evaluation.sotopia.models import EndpointSpeaker, LocalSpeaker
from socialr1_jax.evaluation.sotopia.official import judge_schema, rules_of
from socialr1_jax.evaluation.sotopia.play import Played, Speaker, play, read_episodes
from socialr1_jax.evaluation.sotopia.profiles import SETS
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.evaluation.wording import FILE, note_on, with_wording, wording_of
from socialr1_jax.runtime.terminal import counted

NAME = "sotopia"
PROTOCOLS: tuple[ProtocolName, ...] = ("official",)
TEMPERATURE = 0.7  # of the agents in the authors' code
EPISODES, VERDICTS = "samples_sotopia.jsonl", "verdicts_sotopia.jsonl"


_PARTNER = SettingNames("partner", "partner_url", "partner_options")
_JUDGE = SettingNames("judge", "judge_url", "judge_options")


class About(NamedTuple):
    """Facts that a `Task` has of other benchmarks."""

    title: str
    source: str
    licence: str
    published: tuple[int, str]


ABOUT = About(
    "SOTOPIA: goals in conversations, seven scores by a judge",
    "sotopia-lab/sotopia-space @ 12c13d8 (profiles), sotopia-lab/sotopia-pi @ 245fa7b (used_env.json)",
    "code MIT; data: cc, by the card",
    (profiles.PAIRS, "pairs of agents"),
)


class Players(NamedTuple):
    """Tested model, partner and judge; the tested model may be its own partner, and the judge None."""

    tested: Respondent
    partner: Respondent
    judge: Respondent | None

    def close(self) -> None:
        """Stops the threads."""
        for one in self:
            if one:
                one.close()


def load_benchmark(data_dir: Path, rules: Rules | None = None) -> profiles.Benchmark:
    """Return the five files, with the authors' wording where it is there.

    Raises BenchmarkError, also where the wording is not of the version whose rules are asked for.
    """
    folder = folder_of(NAME, ABOUT.source, data_dir)
    benchmark = with_wording(NAME, folder, profiles.load(folder))
    if rules and benchmark.wording and (theirs := rules_of(benchmark.wording)) != rules:
        raise BenchmarkError(
            f"{folder / FILE}: its texts are of version {theirs}, and sotopia_rules is {rules}: give "
            f"sotopia_rules={theirs}, or make the file of a checkout of that version"
        )
    return benchmark


def make_players(config: EvaluateConfig, tested: Respondent) -> Players:
    """Load the models that the settings name; weights that are loaded already are shared.

    Both agents speak with the sampling that is given, at TEMPERATURE where none is; the judge takes the likeliest
    token, and thinks. Raises what `make_respondent` raises, and BenchmarkError when two have the same weights, which
    `allow_self` permits.
    """
    if "temperature" not in config.model_fields_set:
        config = config.model_copy(update={"temperature": TEMPERATURE})
        tested = tested.sampled_as(config) if isinstance(tested, LocalModel) else make_respondent(config)
    known = {(config.model, config.base_url): tested}

    def player(names: SettingNames, model: str, url: str, **changes: Any) -> Respondent:
        settings = config.model_copy(update={"model": model, "base_url": url, "step": "latest", **changes})
        found = known.get((model, url))
        if isinstance(found, LocalModel):
            return found.sampled_as(settings)
        made = make_respondent(settings, names)
        weights = made.identity().get("sha256")
        if not config.allow_self and weights in {one.identity().get("sha256", "") for one in known.values()}:
            raise BenchmarkError(f"{names.model}: {model} has the weights of another player; {ALLOW_SELF}")
        known[model, url] = made
        return made

    named = (config.partner or config.model, config.partner_url or ("" if config.partner else config.base_url))
    shared = named in known and not config.partner_options
    partner = tested if shared else player(_PARTNER, *named, options=config.partner_options)
    if config.predict_only:
        return Players(tested, partner, None)
    scoring = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "thinking": "on", "api_key_env": config.judge_key_env}
    judge = player(_JUDGE, config.judge, config.judge_url, options=config.judge_options, **scoring)
    return Players(tested, partner, judge)


def run_sotopia(
    config: EvaluateConfig, benchmark: profiles.Benchmark, players: Players, said: Callable[[str], None]
) -> TaskResult:
    """Plays and scores what `config.output` does not have yet: `samples_sotopia.jsonl`, `verdicts_sotopia.jsonl`.

    `said` hears one text for each episode and each verdict, `work` of them. Raises BenchmarkError.
    """
    begun, folder = time.perf_counter(), Path(config.output)
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
        # One speaker at a time: the players' caches are gone by now.
        speaker = _speaker(config, players.judge, judge_limit(config), len(played.episodes), 1, schema)
        verdicts = judge(
            settings,
            played.episodes,
            speaker,
            folder / VERDICTS,
            run=run_id(scores),
            on_verdict=lambda row: said(row["status"]),
        )
    return _result(config, benchmark, settings, played, verdicts, who | filled, time.perf_counter() - begun)


def settings_of(config: EvaluateConfig, benchmark: profiles.Benchmark) -> list[Setting]:
    """The episodes that are asked for."""
    settings = episodes_of(benchmark, config.sotopia_set, config.num_samples, config.sotopia_rules)
    return settings[: config.limit or None]


def work(config: EvaluateConfig, benchmark: profiles.Benchmark) -> int:
    """Return how many texts `run_sotopia` gives: one for each episode, and one for each verdict."""
    return len(settings_of(config, benchmark)) * (1 if config.predict_only else 2)


def turn_limit(config: EvaluateConfig) -> int:
    """Tokens that a turn may take, thoughts included."""
    return config.max_new_tokens or config.turn_tokens + (config.thinking_tokens if config.thinking != "off" else 0)


def judge_limit(config: EvaluateConfig) -> int:
    """Tokens that a verdict may take, thoughts included."""
    return config.judge_tokens + config.thinking_tokens


def _play(
    config: EvaluateConfig,
    settings: Sequence[Setting],
    players: Players,
    file: Path,
    run: str,
    said: Callable[[str], None],
) -> tuple[Played, dict[str, float]]:
    """The episodes, and how full the rows of models here were while turns waited."""
    distinct = {id(one): one for one in players[:2]}
    here = sum(isinstance(one, LocalModel) for one in distinct.values())
    speakers = {key: _speaker(config, one, turn_limit(config), len(settings), here) for key, one in distinct.items()}
    tested, partner = (speakers[id(one)] for one in players[:2])
    known = read_episodes(file).keys() & {one.key for one in settings}
    for key in known:
        said(f"{key} is known")
    for one in distinct.values():
        if known and isinstance(one, Endpoint):
            one.answered_before()
    played = play(
        settings,
        tested,
        partner,
        file,
        run=run,
        on_end=lambda row: said(f"{counted(len(row['turns']), 'turn')}, {row['ended']}"),
    )
    busy = [x for one in speakers.values() if isinstance(one, LocalSpeaker) for x in one.busy]
    return played, {"rows_busy": sum(busy) / len(busy)} if busy else {}


def _speaker(
    config: EvaluateConfig,
    model: Respondent,
    new_tokens: int,
    episodes: int,
    here: int,
    schema: Mapping[str, Any] | None = None,
) -> Speaker:
    """`here`: how many models share the devices."""
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
    benchmark: profiles.Benchmark,
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
    notes += [f"{one}: figures of a model with itself do not compare" for one in config.same_players]
    notes += [*benchmark.notes, note_on(NAME, benchmark), *skipped_notes(NAME, config, PROTOCOLS)]
    complete = not played.failed
    for name in SETS if config.sotopia_set == "all" else (config.sotopia_set,):
        chosen = [one for one in settings if benchmark.is_in(name, one.scenario)]
        if not chosen:
            continue
        found = figures(chosen, played.episodes, verdicts)
        complete &= found.counts["judged"] == found.counts["expected"] or config.predict_only
        notes.append(f"{name}: " + ", ".join(f"{count} {what}" for what, count in found.counts.items() if count))
        details[name] = {"counts": dict(found.counts), "rates": dict(found.rates)}
        if not config.predict_only:
            shown = {**found.figures, **{f"partner/{key}": one for key, one in found.partner.items()}}
            details[name]["figures"] = {key: one._asdict() for key, one in shown.items()}
            metrics |= {f"official_{name}/{k}": Metric(x.value, x.stderr, x.n) for k, x in shown.items()}
            status[f"official_{name}"] = _status(found)
    unjudged = [row["cause"] for row in verdicts.values() if row["status"] != "ok"]
    if unjudged:
        notes.append(
            f"{counted(len(unjudged), 'verdict')} failed ({unjudged[0]}); run the same command to ask for them again"
        )
    failure = next(iter(played.failed.values()), "") if not played.episodes else ""
    if unjudged and len(unjudged) == len(verdicts):
        failure = f"no verdict of the judge: {unjudged[0]}"
    if played.failed:
        causes = sorted(set(played.failed.values()))
        notes.append(
            f"{counted(len(played.failed), 'episode')} given up ({causes[0]}); run the same command to play them again"
        )
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


def _status(found: SetFigures) -> dict[str, float]:
    """Return shares of the tested agent's turns by status, and of episodes whose judge failed."""
    rates = found.rates
    return {
        "ok": 1 - rates["parse_failures"],
        "truncated": rates["truncated"],
        "unparsable": rates["parse_failures"],
        "judge_failed": rates["judge_failed"],
    }
