"""Published rules that score the texts of a language model: what counts as yes, as right, as B."""

from toklip_jax.metrics.answers.choices import LETTERS, gqa_answer, is_same_letter, scienceqa_letter
from toklip_jax.metrics.answers.evalai import evalai_normalised
from toklip_jax.metrics.answers.mmmu import is_open_answer_right, mmmu_letter
from toklip_jax.metrics.answers.options import OPTION_FORMS, UNSURE, matched_option
from toklip_jax.metrics.answers.vqa import ANNOTATORS, anls, vqa_accuracy
from toklip_jax.metrics.answers.yes_no import MMECounts, POPECounts, mme_answer, pope_answer

__all__ = [
    "ANNOTATORS",
    "LETTERS",
    "OPTION_FORMS",
    "UNSURE",
    "MMECounts",
    "POPECounts",
    "anls",
    "evalai_normalised",
    "gqa_answer",
    "is_open_answer_right",
    "is_same_letter",
    "matched_option",
    "mme_answer",
    "mmmu_letter",
    "pope_answer",
    "scienceqa_letter",
    "vqa_accuracy",
]
