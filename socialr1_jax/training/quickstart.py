"""The quickstart: generate stories, build a tokenizer and a small random Qwen3, cold-start it by SFT, run `train_grpo`.

SFT writes an ordinary Hugging Face folder and the stories are ordinary question files, so GRPO runs the same program
that trains a real Qwen3.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from socialr1_jax.config.loading import save_config
from socialr1_jax.config.quickstart import QuickstartConfig
from socialr1_jax.config.reward_model import RewardModelConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.data.examples import LETTERS, Example
from socialr1_jax.data.pairs import write_pairs
from socialr1_jax.data.prompts import question_text, reference_response
from socialr1_jax.data.question_files import read_examples
from socialr1_jax.data.tokenizer import build_tokenizer
from socialr1_jax.models.qwen3 import Qwen3, init_params
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.questions.story_files import write_stories
from socialr1_jax.report import write_report
from socialr1_jax.rewards.extra import load_extras
from socialr1_jax.run.console import console, shown_log, working
from socialr1_jax.run.epochs import in_steps
from socialr1_jax.run.folder import own_folder, refuse_another_run, refuse_other_settings
from socialr1_jax.run.metrics import RunLog
from socialr1_jax.run.summary import write_summary
from socialr1_jax.runtime.files import read_json
from socialr1_jax.runtime.interrupt import SAVED
from socialr1_jax.runtime.ownership import refuse_foreign_folder
from socialr1_jax.runtime.terminal import print_error, print_line
from socialr1_jax.stories.corruptions import corruption_pairs, egocentric
from socialr1_jax.stories.scripts import WORDS
from socialr1_jax.stories.stories import generate_stories
from socialr1_jax.training.grpo import train_grpo
from socialr1_jax.training.quickstart_console import show_results, show_story
from socialr1_jax.training.reward_model import train_reward_model
from socialr1_jax.training.start import train_sft
from socialr1_jax.weights.hf import load_hf
from socialr1_jax.weights.hf_export import save_hf

_TOKENIZER_STORIES = 1000  # stories to train the tokenizer on; they contain every word of the plots
_LOGIT_TOLERANCE = 2e-4


def run_quickstart(config: QuickstartConfig) -> bool:
    """Run the quickstart in `config.output_dir`; return False if it was interrupted."""
    with own_folder(Path(config.output_dir), "quickstart"), shown_log(config.quiet, config.verbose):
        return _run(config, Path(config.output_dir))


def _run(config: QuickstartConfig, folder: Path) -> bool:
    config, about_steps = in_steps(config, config.stories.train_count, config.grpo.prompts_per_step)
    for line in about_steps:
        console.print(line)
    run = _grpo_config(config, folder)
    settings_file = folder / "quickstart.yaml"
    refuse_another_run(config, settings_file)
    load_extras(config.rewards)  # first: a bad reward function fails before minutes of SFT
    if settings_file.exists() and (folder / "sft" / "config.json").exists():
        refuse_other_settings(config, settings_file)
        console.print(f"{folder / 'sft'} exists from an earlier call and is reused")
    else:
        refuse_foreign_folder(folder / "sft", "config.json")
        save_config(config, settings_file)
        try:
            _cold_start(config, folder)
        except KeyboardInterrupt:
            print_error("interrupted during SFT, which is not saved. Run the same command to start it again")
            raise
    if config.rewards.uses.content and not _content_model(config, folder):
        console.print(SAVED)
        return False
    if not train_grpo(run):
        console.print(SAVED)
        write_report(folder)
        return False
    with working("reading the exported folder back"):
        figures = check_export(folder)
    summary = write_summary(folder, start="sft", **figures, **_pair_accuracy(folder))
    report = write_report(folder)
    show_results(summary, folder, report, tensorboard=config.tracking.tensorboard)
    if config.quiet:
        print_line(f"trained weights: {folder}/export   report: {report}")
    return True


def _grpo_config(config: QuickstartConfig, folder: Path) -> RunConfig:
    """Return the quickstart's GRPO run: without the quickstart's own sections, with its model and questions."""
    values = {name: value for name, value in config.model_dump().items() if name in RunConfig.model_fields}
    values["model"]["path"] = str(folder / "sft")
    values["data"]["train"] = str(folder / "questions" / "train.jsonl")
    values["data"]["eval"] = str(folder / "questions" / "heldout.jsonl")
    if config.rewards.uses.content:
        values["rewards"]["content"]["model"] = str(folder / "content_model" / "export")
    return RunConfig(**values)


def untrained_run(config: QuickstartConfig, folder: Path) -> RunConfig:
    """Write questions and a random model to `folder` and return the quickstart's GRPO run on them.

    The content term is off: it scores only well-formed responses, and random weights never write one.
    """
    train = _stories(config, "train")
    write_stories(train, folder / "questions" / "train.jsonl")
    save_hf(small_model(config, train, folder)[0], folder / "sft")
    values = _grpo_config(config, folder).model_dump()
    values["data"]["eval"] = ()
    if config.rewards.uses.content:
        values["rewards"]["preset"] = "no_content"
    return RunConfig(**values)


def _cold_start(config: QuickstartConfig, folder: Path) -> None:
    """Write questions/ and sft/: generate the stories, then train the random model on reference responses."""
    train = _stories(config, "train")
    write_stories(train, folder / "questions" / "train.jsonl")
    write_stories(_stories(config, "heldout"), folder / "questions" / "heldout.jsonl")
    with working("building the tokenizer"):
        model, tokenizer = small_model(config, train, folder)
    size = sum(x.size for x in jax.tree.leaves(model.params))
    console.print(f"Qwen3 with {size / 1e6:.2f} M parameters, {len(tokenizer)} tokens, {len(train)} stories, e.g.:")
    show_story(next((example for example in train if "twin_id" in example.meta), train[0]))
    if share := config.sft.egocentric:
        console.print(f"SFT imitates a child who thinks that everybody knows where the thing is ({share:.0%} of times)")
    rng = random.Random(f"egocentric {config.seed}")
    references = [egocentric(example) if rng.random() < share else example for example in train]
    log = RunLog(folder, config.tracking, config=config.model_dump())
    save_hf(train_sft(model, tokenizer, references, config.sft, log, config.seed), folder / "sft")
    log.close()


def small_model(config: QuickstartConfig, train: Sequence[Example], folder: Path) -> tuple[Qwen3, Any]:
    """Return a random Qwen3 and a tokenizer trained on the stories, which is saved in `folder`/tokenizer."""
    texts = [question_text(e) + "\n" + reference_response(e) for e in train[:_TOKENIZER_STORIES]]
    letters = LETTERS[: config.stories.options]
    words = (*WORDS, *letters, *(f"{letter}. " for letter in letters))
    tokenizer = build_tokenizer(texts, config.tiny_model.vocab_size, words)
    tokenizer.save_pretrained(folder / "tokenizer")
    shape = Qwen3Config(
        **config.tiny_model.model_dump(),
        tie_word_embeddings=True,
        # Unit-variance logits at this width; transformers' 0.02 is meant for widths of thousands.
        initializer_range=config.tiny_model.hidden_size**-0.5,
        max_position_embeddings=config.data.max_prompt_tokens + config.sampling.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    params = init_params(shape, jax.random.key(config.seed))
    return Qwen3(shape, params, source=str(folder / "tokenizer"), num_tokens=len(tokenizer)), tokenizer


def _content_model(config: QuickstartConfig, folder: Path) -> bool:
    """Write pairs.jsonl and train the content reward model on it; return False if training was interrupted."""
    settings, model_folder = config.corruptions, folder / "content_model"
    if not (folder / "pairs.jsonl").exists():
        examples = read_examples(folder / "questions" / "train.jsonl")[: settings.stories]
        write_pairs(folder / "pairs.jsonl", corruption_pairs(examples, seed=config.seed, kinds=settings.kinds))
    if (model_folder / "export" / "config.json").exists():
        return True
    max_tokens = config.data.max_prompt_tokens + config.sampling.max_new_tokens
    return train_reward_model(
        RewardModelConfig.model_validate(
            {
                "output_dir": str(model_folder),
                "seed": config.seed,
                "steps": settings.steps,
                "evaluate_every": 0,
                "model": {"path": str(folder / "sft"), "dtype": config.model.dtype, "remat": config.model.remat},
                "data": {"pairs": str(folder / "pairs.jsonl"), "max_tokens": max_tokens},
                "batch": {"pairs": settings.pairs, "micro_batch_tokens": config.grpo.micro_batch_tokens},
                "optimizer": {
                    "name": "muon",
                    "learning_rate": settings.learning_rate,
                    "warmup_steps": settings.steps // 12,
                    "final_fraction": 0.1,
                    "beta2": 0.95,
                    "weight_decay": 0.0,
                },
                "checkpoint": {"every": 0},
                "tracking": {"tensorboard": config.tracking.tensorboard},
            }
        )
    )


def _pair_accuracy(folder: Path) -> dict[str, float]:
    """Return the content model's accuracy on held-out pairs, {} if there is no content model."""
    file = folder / "content_model" / "summary.json"
    if not file.exists():
        return {}
    summary = read_json(file)
    return {"content_pair_accuracy": summary["accuracy"], "content_pairs": summary["pairs"]}


def _stories(config: QuickstartConfig, split: Literal["train", "heldout"]) -> list[Example]:
    stories = config.stories
    return generate_stories(
        stories.train_count if split == "train" else stories.heldout_count,
        seed=config.seed,
        split=split,
        hold_out_plots=stories.hold_out_plots,
        hold_out_names=stories.hold_out_names,
        **stories.arguments(),
    )


def check_export(folder: Path) -> dict[str, float]:
    """Return the exported model's `parameters` and the largest difference of its logits from those of transformers.

    There is no difference without torch. Raises RuntimeError if it is above 2e-4.
    """
    model = load_hf(folder / "export")
    parameters = sum(x.size for x in jax.tree.leaves(model.params))
    try:
        import torch
        import transformers
    except ImportError:
        console.print("torch is not installed: the logits of the export were not compared with those of transformers")
        return {"parameters": parameters}
    transformers.utils.logging.disable_progress_bar()
    other = transformers.Qwen3ForCausalLM.from_pretrained(folder / "export", dtype=torch.float32).eval()
    tokens_bt = np.random.default_rng(0).integers(0, model.num_tokens, (2, 48))
    with torch.no_grad():
        theirs_btv = other(torch.from_numpy(tokens_bt)).logits.numpy()
    difference = float(np.abs(np.asarray(model(tokens_bt, np.full(2, 48))) - theirs_btv).max())
    if not difference <= _LOGIT_TOLERANCE:  # NaN fails, too
        raise RuntimeError(f"{folder / 'export'}: logits differ from transformers' by {difference:.1e}")
    console.print(f"transformers loads the export; its logits differ by {difference:.1e} at most")
    return {"parameters": parameters, "export_logit_difference": difference}
