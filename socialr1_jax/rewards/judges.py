"""The judges of structure by name."""

from concurrent.futures import Future

from socialr1_jax.config.rewards import StructureConfig
from socialr1_jax.rewards.rules_judge import judge_thoughts
from socialr1_jax.rewards.verdict import Judge, Verdict


def make_judge(config: StructureConfig) -> Judge | None:
    """The judge that the settings name, None for `none`. Raises ValueError or ImportError if it cannot be had."""
    if config.judge == "none":
        return None
    if config.judge == "rules":
        return RulesJudge()
    if config.judge == "endpoint":
        from socialr1_jax.rewards.endpoint_judge import EndpointJudge  # the client is an extra of its own

        return EndpointJudge(config)
    from socialr1_jax.rewards.local_judge import LocalJudge  # imports JAX

    return LocalJudge(config)


class RulesJudge(Judge):
    """The rules of `rules_judge.py`; every verdict is there at once."""

    def submit(self, story: str, question: str, thoughts: str) -> Future[Verdict]:
        judged = judge_thoughts(thoughts)
        verdict = Future[Verdict]()
        verdict.set_result(Verdict(judged.score, violations=judged.violations))
        return verdict
