"""Settings of asking models: of an evaluation, and of one question."""

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import BeforeValidator, Field, model_validator

from socialr1_jax.config.sections import FreeText, Real, Section, Sources, TextMap, Texts
from socialr1_jax.config.server import ServerConfig
from socialr1_jax.runtime.files import ROW_SUFFIXES

STATIC = (
    "tombench",
    "tombench_hard",
    "socialiqa",
    "simpletom",
    "emobench",
    "motivebench",
    "hitom",
    "tactfultom",
)
TASKS = (*STATIC, "fantom", "sotopia")
GROUPS = {"static": STATIC, "all": TASKS}
ProtocolName = Literal["official", "official_cot", "official_18", "official_vp", "paper", "likelihood", "social_r1"]
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)
ALLOW_SELF = "a model neither plays against itself nor scores itself: name another one, or give allow_self=true"


def is_question_source(task: str) -> bool:
    """Return whether a task is questions of the user's own (a file, or `stories:...`) and no benchmark."""
    return task.lower().endswith(ROW_SUFFIXES) or task.startswith("stories:")


def task_name(task: str) -> str:
    """Return what results call a task: a benchmark's name, a question file's name without its folder."""
    return Path(task).name if task.lower().endswith(ROW_SUFFIXES) else task


def samples_name(task: str) -> str:
    """Return the name of the file of a task's samples."""
    return f"samples_{task_name(task).removesuffix('.jsonl').replace(':', '-')}.jsonl"


def _listed(value: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of a list, each once; one text may hold several with commas."""
    return tuple(dict.fromkeys(name.strip() for entry in value for name in entry.split(",") if name.strip()))


def _switch(value: Any) -> Any:
    # YAML 1.1 reads on and off as true and false.
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class QuestionFileConfig(Section):
    """Settings for reading and asking a question file, as in a run's `data`."""

    columns: TextMap = Field({}, description="question file: our field name -> its column name, where they differ")
    where: TextMap = Field({}, description="question file: keep only the rows whose column has this value")
    first_label: int = Field(0, ge=0, le=1, description="question file: number of the first option, where gold is one")
    prompt: FreeText = Field("", description="question file: as data.prompt of the run that trained the model")
    system: FreeText = Field("", description="question file: as data.system of the run that trained the model")


class EvaluateConfig(QuestionFileConfig, ServerConfig):
    """Which model is asked what, and how."""

    model: str = Field("", description="Hugging Face folder or hub id, a run's folder, or the endpoint's model name")
    ignore_fields: Texts = Field((), description="fields of its config.json to ignore although they are not known")
    step: str = Field("latest", description="of a run's checkpoints: latest, best, or a number of steps")
    call_timeout: Real = Field(600.0, gt=0, description="seconds that one try may take")
    max_answer_bytes: int = Field(10_000_000, ge=1000, description="a larger answer is not read and counts as failed")
    tasks: Sources = Field(
        ("static",),
        description=f"benchmarks: {', '.join(TASKS)}; or static, all; or your own questions: a file "
        f"({', '.join(ROW_SUFFIXES)}) or stories:[heldout:]COUNT[:SEED]; with commas",
    )
    allow_bad_rows: bool = Field(False, description="question file: leave out rows that cannot be used, and count them")
    by: Sources = Field((), description="question file: columns to give the accuracy by; none = type, where it has one")
    protocols: Sources = Field(
        ("official", "social_r1"),
        description=f"ways to ask: {', '.join(PROTOCOLS)}; with commas. official is the benchmark's own prompt and "
        "scoring, social_r1 the cards' prompt with plain accuracy; what a task does not have is left out",
    )
    answer_mode: Literal["plain", "reference"] = Field(
        "plain",
        description="social_r1: plain reads the one letter that <Answer> names, as training does; reference the "
        "capital letter that it begins with, as published",
    )
    data_dir: str = Field("data", description="folder that has one folder a benchmark")
    output: str = Field("runs/evaluation", min_length=1, description="folder for results and samples")
    cache: str = Field("", description='file of replies that are known (.jsonl); "" = output/replies.jsonl')
    limit: int = Field(0, ge=0, description="prompts of each task and protocol, for a trial; 0 = all")
    num_samples: int = Field(1, ge=1, description="replies to each prompt")
    temperature: Real = Field(
        0.0,
        ge=0,
        description="0 takes the likeliest token each time; not given: the authors' of official prompts, else 0",
    )
    top_k: int = Field(0, ge=0, description="draw from the k likeliest tokens only; 0 = all (not at an endpoint)")
    top_p: Real = Field(
        1.0,
        gt=0,
        le=1,
        description="draw from the smallest set with this probability; not given: as temperature, else 1",
    )
    repetition_penalty: Real = Field(
        1.0, gt=0, description="divides logits of tokens that are already there; not given: likewise, else 1 (off)"
    )
    thinking: Annotated[Literal["on", "off", "budget"], BeforeValidator(_switch)] = Field(
        "on", description="with thoughts, without (empty ones in the prompt), or cut after thinking_tokens"
    )
    thinking_tokens: int = Field(4096, ge=1, description="tokens that thoughts may take, on top of the answer's")
    max_new_tokens: int = Field(0, ge=0, description="limit of a reply, thoughts included; 0 = as the protocol has it")
    batch_size: str = Field("auto", pattern="auto|[1-9][0-9]*", description="replies decoded at once on a device")
    share_prefixes: bool = Field(
        True, description="compute, keep and read what prompts begin with alike (one story) once"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of weights and computation here")
    seed: int = Field(0, ge=0, lt=2**31, description="of option orders and draws")
    log_samples: bool = Field(True, description="write samples_<task>.jsonl, which score.py scores again")
    predict_only: bool = Field(False, description="write samples and score nothing")
    partner: str = Field("", description='SOTOPIA: who plays the other agent, given as model is; "" = the model itself')
    partner_url: str = Field("", description="SOTOPIA: address of the partner's server")
    partner_options: TextMap = Field({}, description="SOTOPIA: options of the partner's requests")
    judge: str = Field("", description="SOTOPIA: who scores the episodes, given as model is")
    judge_url: str = Field("", description="SOTOPIA: address of the judge's server")
    judge_options: TextMap = Field({}, description="SOTOPIA: options of the judge's requests")
    judge_key_env: str = Field("OPENAI_API_KEY", description="environment variable that holds its key")
    allow_self: bool = Field(False, description="SOTOPIA: let a model play against itself, or score itself")
    sotopia_rules: Literal["0.1.4", "head"] = Field(
        "0.1.4", description="SOTOPIA: when an episode ends and what is seen of the other, by version of its authors"
    )
    sotopia_set: Literal["all", "hard", "cooperative", "competitive"] = Field(
        "all", description="SOTOPIA: every pair, or those of the hard, cooperative or competitive scenarios"
    )
    turn_tokens: int = Field(512, ge=1, description="SOTOPIA: tokens of one turn, thinking on top")
    judge_tokens: int = Field(2048, ge=1, description="SOTOPIA: tokens of one verdict, thinking on top")
    prompt_tokens: int = Field(8192, ge=1, description="SOTOPIA: longest prompt of a model here, for its memory")
    list: bool = Field(False, description="show what of each benchmark is here and where to get the rest, then exit")

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks asked for, each once: benchmarks by name, question files by path."""
        return tuple(dict.fromkeys(task for name in _listed(self.tasks) for task in GROUPS.get(name, (name,))))

    @property
    def protocol_names(self) -> tuple[ProtocolName, ...]:
        """The protocols asked for, each once."""
        return cast(tuple[ProtocolName, ...], _listed(self.protocols))

    @property
    def by_columns(self) -> tuple[str, ...]:
        """The columns of question files to give the accuracy by, each once."""
        return _listed(self.by)

    @property
    def plays(self) -> bool:
        """Return whether SOTOPIA is played: it is one of the tasks, and its only protocol is asked for."""
        return "sotopia" in self.task_names and "official" in self.protocol_names

    @property
    def same_players(self) -> tuple[str, ...]:
        """Return which of SOTOPIA's tested model, partner and judge have the same name, a text for each two."""
        names = {"model": self.model, "partner": self.partner or self.model}
        names |= {} if self.predict_only else {"judge": self.judge}
        return tuple(f"{a} and {b} are both {names[a]}" for a, b in combinations(names, 2) if names[a] == names[b])

    @model_validator(mode="after")
    def _fits(self) -> Self:
        own = [name for name in self.task_names if is_question_source(name)]
        if unknown := [name for name in self.task_names if name not in (*TASKS, *own)]:
            raise ValueError(
                f"tasks: unknown {', '.join(unknown)}; the tasks are {', '.join(TASKS)}, static, all, or a question "
                f"file ({', '.join(ROW_SUFFIXES)})"
            )
        twice = [name for name, count in Counter(map(samples_name, self.task_names)).items() if count > 1]
        if twice:
            raise ValueError(f"tasks: two would write {twice[0]}; rename a file, or evaluate them into two folders")
        for name in (*QuestionFileConfig.model_fields, "allow_bad_rows", "by"):
            if getattr(self, name) and not own:
                raise ValueError(f"{name} is about a question file, and tasks names none; leave it out, or add one")
        unknown = [name for name in self.protocol_names if name not in PROTOCOLS]
        if unknown or not self.protocol_names:
            named = f"unknown {', '.join(unknown)}" if unknown else "none is given"
            raise ValueError(f"protocols: {named}; the protocols are {', '.join(PROTOCOLS)}")
        if "likelihood" in self.protocol_names and self.base_url:
            raise ValueError("protocols: likelihood needs log-probs that no server gives: leave out it or base_url")
        if not self.model and not self.list:
            raise ValueError(f"model is required: {type(self).model_fields['model'].description}")
        if self.plays and not self.judge and not self.predict_only and not self.list:
            raise ValueError("sotopia is scored by a model: give judge (and judge_url), or predict_only=true")
        if self.plays and not self.allow_self and not self.list and self.same_players:
            raise ValueError(f"sotopia: {self.same_players[0]}; {ALLOW_SELF}")
        if self.base_url and self.thinking == "budget":
            raise ValueError("thinking=budget cuts thoughts in the engine here; an endpoint takes on or off")
        drawn = self.task_names == ("sotopia",) and "temperature" not in self.model_fields_set
        if self.num_samples > 1 and self.temperature == 0 and not drawn:
            raise ValueError("num_samples > 1 at temperature 0 gives equal replies; set temperature, such as 0.6")
        return self


class GenerateConfig(QuestionFileConfig):
    """Which model, which question, and how to sample."""

    model: str = Field(min_length=1, description="Hugging Face folder or hub id of a Qwen3, or a run's folder")
    step: str = Field("latest", description="of a run's checkpoints: latest, best, or a number of steps")
    story: FreeText = Field("", description="what happened")
    question: FreeText = Field("", description="the question; without it and --file it is read from standard input")
    options: FreeText = Field("", description='"A. drawer, B. shelf"; "" asks for a free answer')
    file: str = Field("", description="take the question from this .jsonl, .json, .csv or .parquet file")
    row: int = Field(1, ge=1, description="which row of the file, from 1; those that `where` leaves out do not count")
    thinking: bool = Field(True, description="false: ask for an answer without thoughts (enable_thinking)")
    max_new_tokens: int = Field(2048, ge=1, description="length limit, lowered to what the model's positions allow")
    temperature: Real = Field(0.7, ge=0, description="0 takes the likeliest token each time")
    top_k: int = Field(0, ge=0, description="draw from the k likeliest tokens only; 0 = all")
    top_p: Real = Field(1.0, gt=0, le=1, description="draw from the smallest set with this probability; 1 = all")
    min_p: Real = Field(0.0, ge=0, lt=1, description="drop tokens below this share of the likeliest; 0 = none")
    seed: int = Field(0, ge=0, lt=2**31, description="of the draws")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of weights and computation")
    ignore_fields: Texts = Field((), description="fields of config.json that are unknown here but harmless: [a, b]")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.file and (self.story or self.question or self.options):
            raise ValueError("file brings its own story, question and options; leave those out, or file")
        for name in ("columns", "where", "first_label"):
            if getattr(self, name) and not self.file:
                raise ValueError(f"{name} is about a question file, and file names none; leave it out, or give file")
        return self
