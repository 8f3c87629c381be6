"""The Social-R1 reward (docs/rewards.md). No JAX is needed or imported here."""

from socialr1_jax.rewards.parsing import ParsedResponse, parse_response
from socialr1_jax.rewards.rules_judge import Judgement, judge_thoughts
from socialr1_jax.rewards.scorer import Scorer
from socialr1_jax.rewards.stages import STAGES, StageSpan, find_stages
from socialr1_jax.rewards.total import RewardTerms, social_r1_reward
from socialr1_jax.rewards.verdict import Judge, JudgeRefused, Verdict

__all__ = [
    "STAGES",
    "Judge",
    "JudgeRefused",
    "Judgement",
    "ParsedResponse",
    "RewardTerms",
    "Scorer",
    "StageSpan",
    "Verdict",
    "find_stages",
    "judge_thoughts",
    "parse_response",
    "social_r1_reward",
]
