"""Create the judges of structure by name."""

from concurrent.futures import Future

from socialr1_jax.config.rewards import StructureConfig
from socialr1_jax.rewards.rules_judge import judge_thoughts
from socialr1_jax.rewards.verdict import Judge, Verdict


def make_judge(config: StructureConfig) -> Judge | None:
    """Return the configured judge, None for `none`. Raises ValueError or ImportError if it cannot be created."""
    if config.judge == "none":
        return None
    if config.judge == "rules":
        return RulesJudge()
    if config.judge == "endpoint":
        from socialr1_jax.rewards.endpoint_judge import EndpointJudge  # needs the extra `judge`

        return EndpointJudge(config)
    from socialr1_jax.rewards.local_judge import LocalJudge  # imports JAX

    return LocalJudge(config)


class RulesJudge(Judge):
    """Judge by the rules of `rules_judge.py`; its verdicts are immediate."""

    def submit(self, story: str, question: str, thoughts: str) -> Future[Verdict]:
        judged = judge_thoughts(thoughts)
        verdict = Future[Verdict]()
        verdict.set_result(Verdict(judged.score, violations=judged.violations))
        return verdict
