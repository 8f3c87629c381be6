"""Names that TRL and verl give to settings, and ours or none: for "did you mean" and the tables of `docs/settings.md`.

TRL's are those of its GRPOConfig, ModelConfig and ScriptArguments (1.16), with a few of earlier releases; verl's those
of `verl/trainer/config/ppo_trainer.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from typing import NamedTuple


class Names(NamedTuple):
    """Names of one of our settings elsewhere. other: short names in use; note: how the value differs."""

    ours: str
    trl: tuple[str, ...] = ()
    verl: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    note: str = ""


_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
NAMES: tuple[Names, ...] = (
    Names("output_dir", ("output_dir",), ("trainer.default_local_dir",), ("save_dir", "run_name", "logging_dir")),
    Names("seed", ("seed", "data_seed"), (), ("random_seed",)),
    Names(
        "steps",
        ("max_steps",),
        ("trainer.total_training_steps",),
        ("num_steps", "total_steps", "train_steps"),
        "steps of `grpo.prompts_per_step` prompts",
    ),
    Names(
        "epochs",
        ("num_train_epochs",),
        ("trainer.total_epochs",),
        ("num_epochs", "total_epochs"),
        "in place of `steps`; fractions too",
    ),
    Names("verbose", ("log_level",)),
    Names("quiet", ("disable_tqdm",)),
    Names("save_rollouts", (), ("trainer.rollout_data_dir",), (), "a file"),
    Names("model.path", ("model_name_or_path",), ("actor_rollout_ref.model.path",), ("model_path", "model_name")),
    Names(
        "model.dtype",
        ("bf16", "dtype", "torch_dtype"),
        (f"{_ROLLOUT}.dtype",),
        ("precision", "compute_dtype"),
        "of the computation; the weights and moments of AdamW are float32",
    ),
    Names("model.attention", ("attn_implementation",), (), ("flash_attention", "use_flash_attention")),
    Names(
        "model.remat",
        ("gradient_checkpointing",),
        ("actor_rollout_ref.model.enable_gradient_checkpointing",),
        ("activation_checkpointing",),
        "nothing, attention or everything",
    ),
    Names(
        "data.train", ("dataset_name",), ("data.train_files",), ("dataset", "train_file", "train_data", "dataset_path")
    ),
    Names("data.eval", ("dataset_test_split",), ("data.val_files",), ("eval_dataset", "eval_data", "test_files")),
    Names("data.columns", (), ("data.prompt_key",), ("dataset_text_field",), "{messages: your_column}"),
    Names("data.prompt", (), (), ("prompt_template",), "a Jinja template, or a file with one"),
    Names("data.system", (), (), ("system_prompt",)),
    Names("data.max_prompt_tokens", ("max_prompt_length",), ("data.max_prompt_length",), ("max_prompt_len",)),
    Names(
        "sampling.group_size",
        ("num_generations",),
        (f"{_ROLLOUT}.n",),
        ("n", "group_size", "num_samples", "num_return_sequences", "rollout_n"),
    ),
    Names(
        "sampling.max_new_tokens",
        ("max_completion_length",),
        ("data.max_response_length",),
        ("max_tokens", "max_new_tokens", "max_response_length", "response_length"),
    ),
    Names("sampling.temperature", ("temperature",), (f"{_ROLLOUT}.temperature",)),
    Names("sampling.top_k", ("top_k",), (f"{_ROLLOUT}.top_k",), (), "0 = all tokens, where verl has -1"),
    Names("sampling.top_p", ("top_p",), (f"{_ROLLOUT}.top_p",)),
    Names("sampling.min_p", ("min_p",)),
    Names("sampling.max_rows", (), (f"{_ROLLOUT}.max_num_seqs",), ("max_num_seqs",), "of a device"),
    Names(
        "grpo.preset",
        ("loss_type",),
        ("algorithm.adv_estimator",),
        ("algorithm", "advantage_estimator"),
        "one name for advantages, loss and KL (docs/objectives.md)",
    ),
    Names(
        "grpo.prompts_per_step",
        ("generation_batch_size",),
        ("data.train_batch_size",),
        ("batch_size", "train_batch_size", "rollout_batch_size"),
        "prompts, of all devices together; TRL counts responses",
    ),
    Names(
        "grpo.mini_batch_prompts",
        ("steps_per_generation", "gradient_accumulation_steps"),
        (f"{_ACTOR}.ppo_mini_batch_size",),
        ("mini_batch_size",),
        "prompts of an update; updates of a step = prompts_per_step / this",
    ),
    Names(
        "grpo.micro_batch_tokens",
        ("per_device_train_batch_size",),
        (
            f"{_ACTOR}.ppo_max_token_len_per_gpu",
            f"{_ACTOR}.ppo_micro_batch_size_per_gpu",
            f"{_ACTOR}.ppo_micro_batch_size",
        ),
        ("micro_batch_size",),
        "tokens, not rows, on a device",
    ),
    Names("grpo.scale_advantages", ("scale_rewards",), ("algorithm.norm_adv_by_std_in_grpo",)),
    Names("grpo.replace_flat_groups", (), ("algorithm.filter_groups.enable",), ("dynamic_sampling", "filter_groups")),
    Names(
        "grpo.truncated",
        ("mask_truncated_completions",),
        ("reward_model.overlong_buffer.enable",),
        ("overlong_filtering",),
        "keep, mask or penalise",
    ),
    Names("grpo.ratio", ("importance_sampling_level",), (f"{_ACTOR}.policy_loss.loss_mode",), (), "token or sequence"),
    Names(
        "grpo.clip_low",
        ("epsilon",),
        (f"{_ACTOR}.clip_ratio_low", f"{_ACTOR}.clip_ratio"),
        ("cliprange", "clip_range", "clip_eps", "epsilon_low", "eps_clip"),
        "set grpo.clip_high too",
    ),
    Names("grpo.clip_high", ("epsilon_high",), (f"{_ACTOR}.clip_ratio_high",), ("clip_eps_high", "cliprange_high")),
    Names("grpo.dual_clip", ("delta",), (f"{_ACTOR}.clip_ratio_c",), (), "0 = no bound"),
    Names("grpo.aggregation", (), (f"{_ACTOR}.loss_agg_mode",)),
    Names(
        "grpo.kl_coefficient",
        ("beta",),
        (f"{_ACTOR}.kl_loss_coef", f"{_ACTOR}.use_kl_loss"),
        ("kl_coef", "kl_beta", "kl_weight", "init_kl_coef"),
        "0 = no reference model",
    ),
    Names("grpo.kl_estimator", (), (f"{_ACTOR}.kl_loss_type", "algorithm.kl_penalty"), (), "verl's low_var_kl is k3"),
    Names("grpo.entropy_coefficient", ("entropy_coef",), (f"{_ACTOR}.entropy_coeff",), ("ent_coef", "entropy_bonus")),
    Names(
        "grpo.importance_sampling",
        ("vllm_importance_sampling_correction",),
        ("algorithm.rollout_correction.rollout_is",),
    ),
    Names(
        "grpo.importance_cap",
        ("vllm_importance_sampling_clip_max", "vllm_importance_sampling_cap"),
        ("algorithm.rollout_correction.rollout_is_threshold",),
    ),
    Names("optimizer.name", ("optim",), (f"{_ACTOR}.optim.optimizer",), ("optimizer_type",), "adamw or muon"),
    Names("optimizer.learning_rate", ("learning_rate",), (f"{_ACTOR}.optim.lr",), ("lr", "max_lr", "peak_lr")),
    Names(
        "optimizer.schedule",
        ("lr_scheduler_type",),
        (f"{_ACTOR}.optim.lr_scheduler_type", f"{_ACTOR}.optim.warmup_style"),
        ("scheduler", "lr_schedule", "lr_decay"),
    ),
    Names(
        "optimizer.warmup_steps",
        ("warmup_steps", "warmup_ratio"),
        (f"{_ACTOR}.optim.lr_warmup_steps", f"{_ACTOR}.optim.lr_warmup_steps_ratio"),
        ("warmup",),
        "updates, not a share",
    ),
    Names("optimizer.final_fraction", (), (f"{_ACTOR}.optim.min_lr_ratio",), ("min_lr",), "of the learning rate"),
    Names("optimizer.weight_decay", ("weight_decay",), (f"{_ACTOR}.optim.weight_decay",), ("wd",)),
    Names("optimizer.beta1", ("adam_beta1",), (f"{_ACTOR}.optim.betas",), ("betas",)),
    Names("optimizer.beta2", ("adam_beta2",)),
    Names("optimizer.epsilon", ("adam_epsilon",), (), ("eps", "adam_eps")),
    Names("optimizer.max_grad_norm", ("max_grad_norm",), (f"{_ACTOR}.grad_clip",), ("clip_grad", "gradient_clipping")),
    Names(
        "rewards.extra.NAME.function",
        ("reward_funcs",),
        ("custom_reward_function.path",),
        ("reward_fn", "reward_function"),
        "module:function or file.py:function, each under a name of your own; takes one list of "
        "records (docs/rewards.md), not TRL's arguments; added to the Social-R1 reward",
    ),
    Names(
        "rewards.extra.NAME.weight",
        ("reward_weights",),
        (),
        ("reward_weight", "extra_weight"),
        "a number, or a schedule: start, end, steps",
    ),
    Names("rewards.content.model", ("reward_model_name_or_path",), ("reward_model.model.path",), ("reward_model",)),
    Names("evaluation.every", ("eval_steps",), ("trainer.test_freq",), ("eval_every", "eval_interval"), "steps"),
    Names("evaluation.samples", ("num_generations_eval",), (f"{_ROLLOUT}.val_kwargs.n",), ("eval_samples",)),
    Names("checkpoint.every", ("save_steps",), ("trainer.save_freq",), ("save_every", "save_interval"), "steps"),
    Names(
        "checkpoint.keep", ("save_total_limit",), ("trainer.max_actor_ckpt_to_keep",), ("max_checkpoints", "keep_last")
    ),
    Names("checkpoint.best", ("metric_for_best_model",), (), ("best_metric",)),
    Names("tracking.wandb", ("report_to",), ("trainer.logger",), ("use_wandb", "log_with"), "true or false"),
    Names("tracking.responses", ("log_completions",), ("trainer.log_val_generations",), (), "of a step; 0 = all"),
    Names(
        "mesh.fsdp",
        ("fsdp",),
        (f"{_ACTOR}.fsdp_config.fsdp_size", "trainer.n_gpus_per_node"),
        ("num_gpus", "fsdp_size"),
        "0 = all devices that are left",
    ),
    Names(
        "mesh.tensor",
        ("vllm_tensor_parallel_size",),
        (f"{_ROLLOUT}.tensor_model_parallel_size",),
        ("tensor_parallel_size", "tp_size", "tp"),
        "in training too",
    ),
    Names("distributed.processes", (), ("trainer.nnodes",), ("num_nodes", "num_processes", "world_size")),
    Names("distributed.timeout", ("ddp_timeout",), ("actor_rollout_ref.nccl_timeout",), ("nccl_timeout",), "seconds"),
)

# (names without a counterpart here, why). Behind sections of verl, too; * stands for any text.
ABSENT: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("logging_steps", "logging_strategy", "logging_first_step", "num_completions_to_print"),
        "every step is in metrics.jsonl and rollouts.jsonl",
    ),
    (
        ("eval_strategy", "do_eval", "eval_on_start", "eval_delay", "val_before_train"),
        "evaluation.every sets the steps between evaluations; start and end are always evaluated",
    ),
    (
        ("save_strategy", "load_best_model_at_end", "save_only_model", "resume_from_checkpoint", "resume_mode"),
        "checkpoint.every sets the steps between checkpoints; the same command resumes from the newest",
    ),
    (("num_iterations", "ppo_epochs"), "each rollout is trained on once"),
    (
        (
            "use_vllm",
            "vllm_*",
            "sglang_*",
            "ray_*",
            "rollout.name",
            "rollout.mode",
            "gpu_memory_utilization",
            "enforce_eager",
            "free_cache_engine",
            "max_num_batched_tokens",
            "max_model_len",
        ),
        "the sampler is part of the program, without vLLM, SGLang or Ray, and finds its own memory",
    ),
    (
        (
            "use_peft",
            "lora_*",
            "use_dora",
            "use_rslora",
            "target_modules",
            "load_in_4bit",
            "load_in_8bit",
            "bnb_*",
            "use_bnb_nested_quant",
        ),
        "all parameters are trained, without adapters or quantisation",
    ),
    (("push_to_hub", "hub_*"), "the trained weights are in output_dir/export; upload that folder yourself"),
    (
        ("per_device_eval_batch_size", "auto_find_batch_size", "log_prob_micro_batch_size*"),
        "the sampler sizes its batches by free memory, up to sampling.max_rows",
    ),
    (("sync_ref_model", "ref_model_*"), "the reference stays the model that the run began with"),
    (("use_kl_in_reward", "kl_ctrl.*"), "the KL term is part of the loss: grpo.kl_coefficient"),
    (("critic.*", "gamma", "lam", "cliprange_value", "vf_coef"), "no value model is trained"),
    (
        ("project_name", "experiment_name", "project", "trackio_*"),
        "a run is named by output_dir; tracking.wandb logs to the project socialr1_jax",
    ),
    (
        ("deepspeed", "fsdp_config", "ddp_*", "param_offload", "optimizer_offload", "ulysses_sequence_parallel_size"),
        "the section mesh splits weights, moments and rows",
    ),
    (
        ("shuffle", "shuffle_dataset", "dataloader_*"),
        "questions are shuffled again each epoch, and read without workers",
    ),
    (
        ("repetition_penalty", "generation_kwargs", "do_sample"),
        "responses are drawn by temperature, top_k, top_p and min_p alone",
    ),
    (
        ("top_entropy_quantile", "use_adaptive_entropy", "entropy_target", "entropy_coef_*"),
        "all tokens count alike, and grpo.entropy_coefficient is fixed",
    ),
    (("length_column_name", "group_by_length"), "responses are always packed by length"),
    (("multi_objective_aggregation",), "rewards are added, each with its weight"),
    (
        ("fp16", "tf32", "torch_compile*", "use_liger_kernel", "use_remove_padding", "use_cpu"),
        "XLA compiles the step; model.dtype sets its type, JAX_PLATFORMS its devices",
    ),
)


def absent_reason(key: str) -> str:
    """Return why a setting of TRL or verl has no counterpart here; "" for a name that is not in `ABSENT`.

    Sections before a name make no difference.
    """
    key = _plain(key)
    ends = (key, *_ends(key))
    return next((why for names, why in ABSENT for name in names if any(fnmatchcase(end, name) for end in ends)), "")


def known_name(key: str) -> str | None:
    """Return our dotted name of a setting that TRL, verl or a habit calls `key`; None for a name that is not known.

    Taken as verl's are also ends of its names (`rollout.n`), and behind one of our sections the last part alone
    (`optimizer.lr`), if that leads into this section.
    """
    key = _plain(key)
    names = _by_name()
    section, _, last = key.rpartition(".")
    within = names.get(last, "")
    return names.get(key) or (within if section and within.startswith(f"{section}.") else None)


def _plain(key: str) -> str:
    return key.lstrip("-+").replace("-", "_").lower()


@cache
def _by_name() -> Mapping[str, str]:
    found = {name: one.ours for one in NAMES for name in (*one.trl, *one.verl, *one.other)}
    ends: dict[str, set[str]] = {}
    for one in NAMES:
        for end in (end for name in one.verl for end in _ends(name)):
            ends.setdefault(end, set()).add(one.ours)
    return {end: next(iter(ours)) for end, ours in ends.items() if len(ours) == 1} | found


def _ends(name: str) -> Iterator[str]:
    """Yield what is left of a dotted name without its first parts."""
    while "." in name:
        name = name.partition(".")[2]
        yield name
