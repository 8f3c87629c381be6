"""Settings of `evaluate.py` and `generate.py`."""

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import BeforeValidator, Field, model_validator

from socialr1_jax.config.sections import FreeText, Real, Section, Sources, TextMap, Texts
from socialr1_jax.config.server import ServerConfig
from socialr1_jax.runtime.files import ROW_SUFFIXES

STATIC = ("tombench", "tombench_hard", "socialiqa", "simpletom", "emobench", "motivebench", "hitom", "tactfultom")
ASKED = (*STATIC, "fantom")  # each item is one question
TASKS = (*ASKED, "sotopia")
GROUPS = {"static": STATIC, "all": TASKS}
ProtocolName = Literal["official", "official_cot", "official_18", "official_vp", "paper", "likelihood", "social_r1"]
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)
ALLOW_SELF = "a model neither plays against itself nor scores itself: name another one, or give allow_self=true"


def is_question_source(task: str) -> bool:
    """Return whether a task names the user's own questions (a file, or `stories:...`) instead of a benchmark."""
    return task.lower().endswith(ROW_SUFFIXES) or task.startswith("stories:")


def task_name(task: str) -> str:
    """Return the name of a task in results: a benchmark, or a question file without its folder."""
    return Path(task).name if task.lower().endswith(ROW_SUFFIXES) else task


def samples_name(task: str) -> str:
    """Return the file name of a task's samples."""
    return f"samples_{task_name(task).removesuffix('.jsonl').replace(':', '-')}.jsonl"


def _listed(value: tuple[str, ...]) -> tuple[str, ...]:
    """Return the unique names in a list; an entry may hold several, separated by commas."""
    return tuple(dict.fromkeys(name.strip() for entry in value for name in entry.split(",") if name.strip()))


def _switch(value: Any) -> Any:
    # YAML 1.1 reads on and off as true and false.
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class QuestionFileConfig(Section):
    """Settings for reading and asking a question file, as in a run's `data`."""

    columns: TextMap = Field({}, description="question file: our field name -> its column name, if they differ")
    where: TextMap = Field({}, description="question file: keep only the rows whose column has this value")
    first_label: int = Field(0, ge=0, le=1, description="question file: number of the first option, if gold is one")
    prompt: FreeText = Field("", description="question file: as data.prompt of the run that trained the model")
    system: FreeText = Field("", description="question file: as data.system of the run that trained the model")


class EvaluateConfig(QuestionFileConfig, ServerConfig):
    """The model to evaluate, its tasks, and the sampling of replies."""

    model: str = Field("", description="Hugging Face folder or hub id, a run's folder, or the endpoint's model name")
    ignore_fields: Texts = Field((), description="unknown fields of its config.json to ignore: [a, b]")
    step: str = Field("latest", description="checkpoint of a run: latest, best, or a number of steps")
    call_timeout: Real = Field(600.0, gt=0, description="timeout of one attempt in seconds")
    max_answer_bytes: int = Field(10_000_000, ge=1000, description="size limit of a response; a larger one fails")
    tasks: Sources = Field(
        ("static",),
        description=f"benchmarks: {', '.join(TASKS)}; static or all; or your own questions: a file "
        f"({', '.join(ROW_SUFFIXES)}) or stories:[heldout:]COUNT[:SEED]; separated by commas",
    )
    allow_bad_rows: bool = Field(False, description="question file: drop and count invalid rows instead of stopping")
    by: Sources = Field((), description="question file: columns to report accuracy by; none = type, if present")
    protocols: Sources = Field(
        ("official", "social_r1"),
        description=f"prompts and scoring: {', '.join(PROTOCOLS)}; separated by commas. official: those of the "
        "benchmark; social_r1: the prompt of the model cards, scored by accuracy. A task skips those it does not have",
    )
    answer_mode: Literal["plain", "reference"] = Field(
        "plain",
        description="social_r1: plain reads the one letter that <Answer> names, as in training; reference reads "
        "the capital letter that it begins with, as published",
    )
    data_dir: str = Field("data", description="folder with one subfolder for each benchmark")
    output: str = Field("runs/evaluation", min_length=1, description="folder to write results and samples to")
    cache: str = Field("", description='file that caches replies (.jsonl); "" = output/replies.jsonl')
    limit: int = Field(0, ge=0, description="use only this many prompts of each task and protocol; 0 = all")
    num_samples: int = Field(1, ge=1, description="replies per prompt")
    temperature: Real = Field(
        0.0, ge=0, description="0 = greedy; if not given: the authors' value for official prompts, else 0"
    )
    top_k: int = Field(0, ge=0, description="sample from the k likeliest tokens; 0 = all (not for an endpoint)")
    top_p: Real = Field(
        1.0,
        gt=0,
        le=1,
        description="sample from the smallest set with this probability; if not given: as temperature, else 1",
    )
    repetition_penalty: Real = Field(
        1.0, gt=0, description="divides the logits of earlier tokens; if not given: as temperature, else 1 (off)"
    )
    thinking: Annotated[Literal["on", "off", "budget"], BeforeValidator(_switch)] = Field(
        "on", description="on; off: empty thoughts in the prompt; budget: cut after thinking_tokens"
    )
    thinking_tokens: int = Field(4096, ge=1, description="length limit of the thoughts, in addition to the answer's")
    max_new_tokens: int = Field(0, ge=0, description="length limit of a reply, thoughts included; 0 = the protocol's")
    batch_size: str = Field("auto", pattern="auto|[1-9][0-9]*", description="replies decoded at once on a device")
    share_prefixes: bool = Field(True, description="compute, store and read the KV cache of common prefixes once")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="type of a local model's computation")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of option orders and sampling")
    log_samples: bool = Field(True, description="write samples_<task>.jsonl, which score.py can score again")
    predict_only: bool = Field(False, description="write samples without scoring them")
    partner: str = Field("", description='SOTOPIA: model of the other agent; "" = the model itself')
    partner_url: str = Field("", description="SOTOPIA: address of the partner's server")
    partner_options: TextMap = Field({}, description="SOTOPIA: options of the partner's requests")
    judge: str = Field("", description="SOTOPIA: model that scores the episodes")
    judge_url: str = Field("", description="SOTOPIA: address of the judge's server")
    judge_options: TextMap = Field({}, description="SOTOPIA: options of the judge's requests")
    judge_key_env: str = Field("OPENAI_API_KEY", description="SOTOPIA: environment variable that holds the judge's key")
    allow_self: bool = Field(False, description="SOTOPIA: let a model play against itself, or score itself")
    sotopia_rules: Literal["0.1.4", "head"] = Field(
        "0.1.4", description="SOTOPIA: version of the authors' rules for the end of episodes and what is visible"
    )
    sotopia_set: Literal["all", "hard", "cooperative", "competitive"] = Field(
        "all", description="SOTOPIA: all pairs, or those of the hard, cooperative or competitive scenarios"
    )
    turn_tokens: int = Field(512, ge=1, description="SOTOPIA: length limit of one turn, without thoughts")
    judge_tokens: int = Field(2048, ge=1, description="SOTOPIA: length limit of one verdict, without thoughts")
    prompt_tokens: int = Field(8192, ge=1, description="SOTOPIA: longest prompt of a local model")
    list: bool = Field(False, description="list the benchmarks' files and where to get missing ones, then exit")

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks without repetitions: benchmarks by name, question files by path."""
        return tuple(dict.fromkeys(task for name in _listed(self.tasks) for task in GROUPS.get(name, (name,))))

    @property
    def protocol_names(self) -> tuple[ProtocolName, ...]:
        """The protocols without repetitions."""
        return cast(tuple[ProtocolName, ...], _listed(self.protocols))

    @property
    def by_columns(self) -> tuple[str, ...]:
        """The columns of question files to report the accuracy by, without repetitions."""
        return _listed(self.by)

    @property
    def plays(self) -> bool:
        """Return whether SOTOPIA is played: it is one of the tasks, and its only protocol is selected."""
        return "sotopia" in self.task_names and "official" in self.protocol_names

    @property
    def same_players(self) -> tuple[str, ...]:
        """Return one text for each two of SOTOPIA's tested model, partner and judge that have the same name."""
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
            raise ValueError("protocols: likelihood needs log-probs that no server gives: leave it or base_url out")
        if not self.model and not self.list:
            raise ValueError(f"model is required: {type(self).model_fields['model'].description}")
        if self.plays and not self.judge and not self.predict_only and not self.list:
            raise ValueError("sotopia is scored by a model: give judge (and judge_url), or predict_only=true")
        if self.plays and not self.allow_self and not self.list and self.same_players:
            raise ValueError(f"sotopia: {self.same_players[0]}; {ALLOW_SELF}")
        if self.base_url and self.thinking == "budget":
            raise ValueError("thinking=budget needs a local model; an endpoint takes on or off")
        drawn = self.task_names == ("sotopia",) and "temperature" not in self.model_fields_set
        if self.num_samples > 1 and self.temperature == 0 and not drawn:
            raise ValueError("num_samples > 1 at temperature 0 gives identical replies; set temperature, such as 0.6")
        return self


class GenerateConfig(QuestionFileConfig):
    """The model, the question, and the sampling of the response."""

    model: str = Field(min_length=1, description="Hugging Face folder or hub id of a Qwen3, or a run's folder")
    step: str = Field("latest", description="checkpoint of a run: latest, best, or a number of steps")
    story: FreeText = Field("", description="what happened")
    question: FreeText = Field("", description="the question; without it and --file, read from standard input")
    options: FreeText = Field("", description='"A. drawer, B. shelf"; "" asks for a free answer')
    file: str = Field("", description="take the question from this .jsonl, .json, .csv or .parquet file")
    row: int = Field(1, ge=1, description="number of the row in the file, from 1, after `where` is applied")
    thinking: bool = Field(True, description="false: answer without thoughts (enable_thinking)")
    max_new_tokens: int = Field(2048, ge=1, description="length limit; lowered if the model has fewer positions")
    temperature: Real = Field(0.7, ge=0, description="0 = greedy")
    top_k: int = Field(0, ge=0, description="sample from the k likeliest tokens; 0 = all")
    top_p: Real = Field(1.0, gt=0, le=1, description="sample from the smallest set with this probability; 1 = all")
    min_p: Real = Field(0.0, ge=0, lt=1, description="drop tokens below this fraction of the largest probability")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of sampling")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="type of weights and computation")
    ignore_fields: Texts = Field((), description="unknown fields of config.json to ignore: [a, b]")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.file and (self.story or self.question or self.options):
            raise ValueError("file has its own story, question and options; leave out either those or file")
        for name in ("columns", "where", "first_label"):
            if getattr(self, name) and not self.file:
                raise ValueError(f"{name} is about a question file, and file names none; leave it out, or give file")
        return self
