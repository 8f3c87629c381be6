"""The Social-R1 reward (docs/rewards.md). No JAX is needed or imported here."""

from socialr1_jax.rewards.parsing import ParsedResponse, parse_response
from socialr1_jax.rewards.rules_judge import Judgement, judge_thoughts
from socialr1_jax.rewards.stages import STAGES, StageSpan, find_stages
from socialr1_jax.rewards.total import RewardTerms, score_response, social_r1_reward

__all__ = [
    "STAGES",
    "Judgement",
    "ParsedResponse",
    "RewardTerms",
    "StageSpan",
    "find_stages",
    "judge_thoughts",
    "parse_response",
    "score_response",
    "social_r1_reward",
]
