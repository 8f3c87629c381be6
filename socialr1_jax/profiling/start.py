"""The run of a quickstart without its training before GRPO: its stories, its tokenizer, a random model."""

from pathlib import Path

from socialr1_jax.config.quickstart import QuickstartConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.questions.story_files import write_stories
from socialr1_jax.training.quickstart import small_model, stories_of
from socialr1_jax.weights.hf_export import save_hf


def quickstart_run(config: QuickstartConfig, folder: Path) -> RunConfig:
    """The GRPO run of a quickstart, its model and questions written into `folder`.

    Without the content reward model: it is asked about responses of the right format alone, and those of random
    weights never are.
    """
    examples = stories_of(config, config.stories.train_count, "train", config.seed)
    write_stories(examples, folder / "train.jsonl")
    model, _ = small_model(config, examples, folder)
    save_hf(model, folder / "model")
    values = {name: value for name, value in config.model_dump().items() if name in RunConfig.model_fields}
    values["model"]["path"] = str(folder / "model")
    values["data"] |= {"train": str(folder / "train.jsonl"), "eval": ()}
    if config.rewards.uses.content:
        values["rewards"]["preset"] = "no_content"
    return RunConfig(**values)
