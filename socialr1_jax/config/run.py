"""Settings of a run. A field's description is its line in `--help`.

`RunConfig` is the configuration of `train_grpo.py`. Defaults are the recipe of the Social-R1 cards (8 x A100);
`configs/` has smaller ones. API keys are not settings: they come from the environment and are never stored.
"""

import warnings
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PlainValidator, model_validator

from socialr1_jax.config.objective import Objective
from socialr1_jax.config.rewards import RewardConfig
from socialr1_jax.config.sections import FreeText, Need, Real, Section, Sources, TextMap, Texts, XlaFlags, listed
from socialr1_jax.runtime.startup import GPU_MEMORY
from socialr1_jax.runtime.terminal import counted

# Excludes kernels with atomic sums, and the choice of kernels by timing, which may differ between processes.
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


class ModelConfig(Section):
    """The weights, the computation and the export."""

    path: str = Field("", description="Hugging Face folder or hub id of a Qwen3 (required by train_grpo.py)")
    random: str = Field(
        "",
        description="for trials: random weights of this size (nano, tiny, small, 0.6b ... 32b) with the tokenizer of "
        "path, or one trained on the questions if there is no path; a path given later replaces this",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="type of the computation; master weights and Adam moments are always float32"
    )
    export_dtype: Literal["", "float32", "bfloat16", "float16"] = Field(
        "", description='type of the weights in export/; "" = the type in path, or float32 for random weights'
    )
    ignore_fields: Texts = Field(
        (), description="unknown fields of config.json to ignore, as they do not change the forward pass: [a, b]"
    )
    attention: Literal["auto", "xla", "cudnn", "triton"] = Field(
        "auto", description="kernel; auto = the faster of cudnn and triton for bfloat16 on NVIDIA GPUs, else xla"
    )
    remat: Literal["nothing", "attention", "everything"] = Field(
        "everything",
        description="recomputed in the backward pass: nothing (most memory); attention: only elementwise work, keeping "
        "results of attention and matrix products; or everything (least memory, about 1/3 slower)",
    )


class DataConfig(Section):
    """The questions and their prompt."""

    train: Sources = Field(
        (),
        description="questions: .jsonl, .json, .csv, .parquet, hub dataset id, or stories:COUNT for generated ones; or "
        "a list of these (required by train_grpo.py)",
    )
    eval: Sources = Field(
        (),
        description="questions to evaluate on, one result for each source; [] holds out `holdout` questions of train",
    )
    holdout: int = Field(100, ge=1, description="questions held out of train if eval is not given; twins stay together")
    columns: TextMap = Field({}, description="our field name -> the file's column name, if they differ")
    where: TextMap = Field({}, description="keep only rows whose column has this value: {prompting_type: CoTP}")
    first_label: int = Field(0, ge=0, le=1, description="number of the first option, if gold answers are numbers")
    allow_bad_rows: bool = Field(False, description="drop and count invalid rows instead of stopping")
    train_on_evaluation_set: str = Field("", description="SHA-256 prefix (12 digits) of a test-only file to train on")
    prompt: FreeText = Field(
        "",
        description="Jinja template of the user turn, or a file with one, with story, question, options, lettered, "
        'meta and instruction; "" = the prompt of the Social-R1 cards',
    )
    system: FreeText = Field("", description='text of the system turn; "" = the question\'s own, or none')
    max_prompt_tokens: int = Field(1024, ge=1, description="longer prompts are dropped and counted, never cut")


def _split(value: Any) -> Any:
    if value != "auto" and (type(value) is not int or value < 1):
        raise ValueError(f"give a number of devices or auto, not {value!r}")
    return value


class SamplingConfig(Section):
    """Sampling of responses."""

    group_size: int = Field(5, ge=2, description="responses per prompt; they are compared with each other")
    max_new_tokens: int = Field(3072, ge=1, description="length limit of a response")
    temperature: Real = Field(1.0, gt=0, description="divides the logits, in sampling and in every log-prob")
    top_k: int = Field(0, ge=0, lt=2**31, description="sample from the k likeliest tokens; 0 = all")
    top_p: Real = Field(1.0, gt=0, le=1, description="sample from the smallest set with this probability; 1 = all")
    min_p: Real = Field(0.0, ge=0, lt=1, description="drop tokens below this fraction of the largest probability")
    attention: Literal["auto", "xla", "triton"] = Field(
        "auto",
        description="attention kernel of decoding; triton reads the filled cache only; auto = the faster one of those "
        "that are right on this GPU, and the log says which",
    )
    segment_tokens: int = Field(64, ge=1, description="tokens decoded between two checks for finished rows")
    max_rows: int = Field(512, ge=1, description="most responses decoded at once on a device; others wait")
    tensor: Annotated[int | Literal["auto"], PlainValidator(_split)] = Field(
        "auto",
        description="devices that share a row's weights and caches in the rollout; auto = on NVIDIA GPUs the fastest "
        "split that fits by the chip's peaks, which the run prints, else mesh.tensor",
    )
    weights: Literal["dtype", "int8", "float8"] = Field(
        "dtype", description="copy of the weights that decoding reads: in the model's dtype, or kernels of 8 bits"
    )

    @property
    def draws(self) -> dict[str, Any]:
        """The settings of the sampling distribution and length, named as in `SamplingParams`."""
        return self.model_dump(exclude={"group_size", "attention", "segment_tokens", "max_rows", "tensor", "weights"})


class GrpoConfig(Objective):
    """Group-relative policy optimisation: the objective, and the sizes of its batches."""

    prompts_per_step: int = Field(64, ge=1, description="prompts per step (x sampling.group_size responses)")
    mini_batch_prompts: int = Field(16, ge=1, description="prompts per optimiser update; divides prompts_per_step")
    micro_batch_tokens: int = Field(
        4096,
        ge=1,
        description="tokens of one backward pass on a device, padding included; a longer row gets its own. Changes "
        "memory, never the gradient",
    )
    old_logprobs: Literal["recompute", "sampler"] = Field(
        "recompute",
        description="old policy's log-probs: recompute = the trainer's own; sampler = those that the sampler drew "
        "with, without a pass",
    )
    reference_memory: Literal["device", "host"] = Field(
        "device", description="memory that holds the reference weights between passes"
    )
    most_skipped: int = Field(5, ge=1, description="non-finite updates in a row (loss or gradient) that stop the run")

    @property
    def old_pass(self) -> bool:
        """Return whether rows need a pass for their old log-probs: those after the first update, whose ratio is 1."""
        return self.old_logprobs == "recompute" and self.mini_batch_prompts < self.prompts_per_step

    @model_validator(mode="after")
    def _weights_say_something(self) -> Self:
        if self.old_logprobs == "sampler" and self.importance_sampling != "none":
            raise ValueError(
                "old_logprobs sampler makes the ratio that of trainer to sampler, and every importance weight 1; set "
                "importance_sampling to none"
            )
        return self


class MeshConfig(Section):
    """Axes of the device mesh; their product is the number of devices."""

    replica: int = Field(1, ge=1, description="full copies of weights and moments, each with different rows")
    fsdp: int = Field(0, ge=0, description="parts that weights, moments and rows are split into; 0 = all that is left")
    tensor: int = Field(1, ge=1, description="parts that heads, feed-forward width and vocabulary are split into")


class DistributedConfig(Section):
    """Processes on several hosts. SLURM, Open MPI, GKE and Cloud TPU are detected and need no settings."""

    needs = (Need("process coordinator", "processes"),)

    processes: int = Field(0, ge=0, description="number of processes; 0 = the launcher's number, or one")
    process: int = Field(0, ge=0, description="number of this process, from 0")
    coordinator: str = Field("", description="host:port of process 0")
    timeout: int = Field(300, ge=1, description="seconds to wait for the others, at start and at every barrier")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.processes and (self.process >= self.processes or not self.coordinator):
            raise ValueError(
                f"processes {self.processes} needs coordinator (host:port of process 0) and process 0 to "
                f"{self.processes - 1}; set both"
            )
        return self


class OptimizerConfig(Section):
    """Optimizer of the float32 master weights."""

    needs = (Need("final_fraction", "schedule", ("cosine", "linear")),)

    name: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: orthogonalised steps for matrices, AdamW for the rest; for training from scratch"
    )
    learning_rate: Real = Field(5e-7, ge=0, description="peak learning rate; 0 changes nothing")
    schedule: Literal["constant", "cosine", "linear"] = Field("constant", description="shape after the warm-up")
    warmup_steps: int = Field(0, ge=0, description="optimiser updates of the warm-up from 0 to the peak")
    final_fraction: Real = Field(
        0.0, ge=0, le=1, description="fraction of learning_rate at the end of a cosine or linear schedule"
    )
    weight_decay: Real = Field(0.01, ge=0, description="decoupled weight decay")
    beta1: Real = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: Real = Field(0.999, ge=0, lt=1, description="decay of the second moment")
    epsilon: Real = Field(1e-8, gt=0, description="added to the square root of the second moment")
    max_grad_norm: Real = Field(1.0, gt=0, description="global norm that gradients are clipped to")
    moments_memory: Literal["device", "host"] = Field("device", description="memory of the moments between updates")


class EvaluationConfig(Section):
    """Evaluation on held-out questions during the run."""

    every: int = Field(50, ge=0, description="steps between evaluations; 0 = only at start and end")
    questions: int = Field(100, ge=1, description="first questions of each source to evaluate; twins stay together")
    samples: int = Field(4, ge=1, description="responses per question")


class CheckpointConfig(Section):
    """Checkpoints, which let an interrupted run resume."""

    every: int = Field(50, ge=0, description="steps between checkpoints; 0 = only at the end")
    keep: int = Field(2, ge=1, description="number of newest checkpoints to keep")
    on_failure: Literal["continue", "stop"] = Field("continue", description="what to do if a save fails (disk full)")


class RunCheckpointConfig(CheckpointConfig):
    """Checkpoints, and the metric that selects the best one."""

    best: str = Field("accuracy", description='evaluation metric whose highest checkpoint is kept, too; "" = none')


class TrackingConfig(Section):
    """Trackers in addition to metrics.jsonl."""

    tensorboard: bool = Field(True, description="write TensorBoard event files")
    wandb: bool = Field(False, description="log to Weights & Biases (pip install -e '.[wandb]')")


class RunTrackingConfig(TrackingConfig):
    """Trackers in addition to metrics.jsonl, and the number of responses stored."""

    responses: int = Field(0, ge=0, description="responses per step written to rollouts.jsonl; 0 = all")


class RunConfig(Section):
    """A GRPO run on any Qwen3 folder and any question file."""

    required: ClassVar[tuple[str, ...]] = ("model.path", "data.train")  # model.random can replace model.path
    replaces: ClassVar[dict[str, str]] = {"model.path": "model.random", "verbose": "quiet"}
    either = (("steps", "epochs"),)
    needs = (
        Need("epochs", "replay_rollouts", ("",)),
        Need("cold_start", "model.random"),
        Need("data.holdout", "data.eval", ([],)),
        Need("verbose", "quiet", (False,)),
    )
    makes_content_model: ClassVar[bool] = False

    output_dir: str = Field("runs/grpo", min_length=1, description="folder for all output")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the order of prompts and of sampling")
    steps: int = Field(600, ge=1, lt=2**31, description="GRPO steps")
    epochs: Real = Field(
        0.0, ge=0, description="instead of steps: questions x epochs / grpo.prompts_per_step, rounded up; 0 = use steps"
    )
    cold_start: int = Field(0, ge=0, description="SFT updates on reference responses before GRPO, for random weights")
    quiet: bool = Field(False, description="print only faults and the location of the results")
    verbose: bool = Field(False, description="also print compilations and the progress of sampling")
    xla_flags: XlaFlags = Field((), description="added to XLA_FLAGS; flags already set there win")
    deterministic: bool = Field(
        False,
        description="same bytes from every run on the same devices, also on GPUs, which are slower with it: sets "
        "model.attention and sampling.attention to xla and adds its flag to xla_flags",
    )
    save_rollouts: str = Field("", description="file (.jsonl) to write every response with its tokens and reward to")
    replay_rollouts: str = Field("", description="file of save_rollouts to train on, without sampler and judge")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    sampling: SamplingConfig = SamplingConfig()
    grpo: GrpoConfig = GrpoConfig()
    mesh: MeshConfig = MeshConfig()
    distributed: DistributedConfig = DistributedConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    rewards: RewardConfig = RewardConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: RunCheckpointConfig = RunCheckpointConfig()
    tracking: RunTrackingConfig = RunTrackingConfig()

    @property
    def updates(self) -> int:
        """The number of optimiser updates in the run."""
        return self.steps * (self.grpo.prompts_per_step // self.grpo.mini_batch_prompts)

    @classmethod
    def filled_in(cls, values: Any) -> Any:
        """Return the values with the attention kernels and the XLA flag that `deterministic` stands for."""
        if not isinstance(values, dict) or values.get("deterministic") is not True:
            return values
        flags = listed(values.get("xla_flags") or ())
        for name in ("model", "sampling"):  # decoding's kernel is chosen by timing, which may differ between processes
            section = values.get(name) or {}
            if isinstance(section, dict) and section.get("attention", "auto") == "auto":
                values = values | {name: section | {"attention": "xla"}}
        if isinstance(flags, tuple) and _DETERMINISTIC not in flags:
            values = values | {"xla_flags": (*flags, _DETERMINISTIC)}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in self.required:
            section, _, field = name.partition(".")
            values = getattr(self, section)
            otherwise = self.replay_rollouts if name == "data.train" else self.model.random
            if not getattr(values, field) and not otherwise:
                raise ValueError(f"{name} is required: {type(values).model_fields[field].description}")
        if self.cold_start and (not self.model.random or self.replay_rollouts):
            raise ValueError("cold_start is for model.random on questions; set cold_start to 0")
        grpo = self.grpo
        if grpo.prompts_per_step % grpo.mini_batch_prompts:
            raise ValueError(
                f"grpo.mini_batch_prompts {grpo.mini_batch_prompts} does not divide grpo.prompts_per_step "
                f"{grpo.prompts_per_step}; set grpo.mini_batch_prompts to {divisors(grpo.prompts_per_step)}"
            )
        refuse_unfit(self.model, self.optimizer, 0 if self.epochs else self.updates)
        against = [flag for flag in self.xla_flags if "deterministic" in flag and flag.endswith("=false")]
        if self.deterministic and (self.model.attention != "xla" or against):
            raise ValueError(
                "deterministic needs model.attention xla, whose gradients are the same in every call, and no flag "
                "against it in xla_flags; leave both out, or set deterministic to false"
            )
        given = self.rewards.content.model or self.makes_content_model or self.replay_rollouts
        if self.rewards.uses.content and not given:
            raise ValueError(
                f"rewards.preset {self.rewards.preset} needs a content reward model; set rewards.content.model to its "
                "folder (socialr1 train-reward-model makes one), or rewards.preset to no_content"
            )
        return self

    def arithmetic(self) -> str:
        """Return the size of the run in prompts, samples and tokens."""
        prompts, group, limit = self.grpo.prompts_per_step, self.sampling.group_size, self.sampling.max_new_tokens
        width = self.data.max_prompt_tokens + limit
        mini, micro = self.grpo.mini_batch_prompts, self.grpo.micro_batch_tokens
        rows, responses = mini * group, prompts * group
        evaluations = 1 + (-(-self.steps // self.evaluation.every) if self.evaluation.every else 1)
        answers = self.evaluation.questions * self.evaluation.samples * max(1, len(self.data.eval))
        lines = {
            "row": f"up to {self.data.max_prompt_tokens:,} prompt + {limit:,} response = {width:,} tokens",
            "step": f"{counted(prompts, 'prompt')} x {group} = {responses:,} responses, "
            f"up to {responses * limit:,} response tokens",
            "mini-batch": f"{counted(mini, 'prompt')} = {rows:,} rows, up to {rows * width:,} tokens an update, "
            f"{max(micro, width):,} at most in a device's backward pass",
            "run": f"{counted(self.steps, 'step')} = {counted(self.updates, 'update')}, "
            f"{counted(self.steps * prompts, 'prompt')}, "
            f"{self.steps * responses:,} responses, up to {self.steps * responses * limit:,} response tokens",
            "evaluation": f"{evaluations} x {counted(answers // self.evaluation.samples, 'question')} x "
            f"{self.evaluation.samples} = "
            f"{evaluations * answers:,} responses, up to {evaluations * answers * limit:,} response tokens",
        }
        if self.epochs:  # the number of steps depends on the number of questions
            lines["run"] = f"{self.epochs:g} epochs of the questions"
            del lines["evaluation"]
        return "\n".join(f"{name:<11} {text}" for name, text in lines.items())


# pydantic's BaseModel has a deprecated method of the name.
warnings.filterwarnings("ignore", 'Field name "json" in "PlanConfig" shadows')


class PlanConfig(RunConfig):
    """A run, and the devices for which plan.py compiles it."""

    required = ("model.path",)

    topology: str = Field(
        "a100-80gb:8",
        description="kind and number of devices: a100-80gb:8, a100-80gb:4x8 (4 nodes), h100-80gb:8, h200:8, v5e:2x4, "
        "v5p:2x2x2, cpu:8",
    )
    response_tokens: int = Field(
        0, ge=0, description="mean response length assumed for the times; 0 = max_new_tokens, for the constant law"
    )
    response_law: Literal["constant", "exponential", "lognormal"] = Field(
        "constant", description="lengths of responses assumed for the times, cut at max_new_tokens"
    )
    memory_fraction: Real = Field(
        0, ge=0, le=1, description=f"share of a device's memory; 0 = XLA_PYTHON_CLIENT_MEM_FRACTION, else {GPU_MEMORY}"
    )
    json: str = Field("", description="also write the plan to this file")  # type: ignore[assignment]

    @model_validator(mode="after")
    def _has_tokens(self) -> Self:
        if self.response_law != "constant" and not self.response_tokens:
            raise ValueError(f"response_law {self.response_law} has no tokens: set response_tokens to its mean")
        return self


class DoctorConfig(RunConfig):
    """A run, and the extent of the checks of its environment."""

    required = ()

    no_step: bool = Field(False, description="skip the tiny GRPO step, which takes most of the doctor's time")


def refuse_unfit(model: ModelConfig, optimizer: OptimizerConfig, updates: int) -> None:
    """Raise ValueError if the warm-up takes all of the run's updates (0: unknown), or a GPU's kernel gets float32."""
    if 0 < updates <= optimizer.warmup_steps:
        raise ValueError(
            f"optimizer.warmup_steps {optimizer.warmup_steps} leaves none of the run's {updates} updates "
            "at the peak; lower optimizer.warmup_steps or raise steps"
        )
    if model.attention in ("cudnn", "triton") and model.dtype != "bfloat16":
        raise ValueError(f"model.attention {model.attention} computes in bfloat16; set model.dtype to bfloat16")


def divisors(number: int) -> str:
    """Return the divisors of a number below 1000, and the number itself, as text: "1, 2, 4 or 8"."""
    small = [str(d) for d in range(1, min(number, 1000)) if number % d == 0]
    return f"{', '.join(small)} or {number}" if small else str(number)
