"""Notebook 03. Instruction data written by a teacher that reads and does not see, and what of it is right.

Source: Visual Instruction Tuning (arXiv 2304.08485), section 3.
"""

from vlmlab.instruction.checking import FAULTS, Fault, Judged, judge, review, summarise
from vlmlab.instruction.context import KINDS, Told, tell
from vlmlab.instruction.making import make, record, recorded
from vlmlab.instruction.prompts import prefix, prompt, request
from vlmlab.instruction.replies import DETAILED, Parsed, broken_rules, parse
from vlmlab.instruction.teachers import TEACHERS, Teacher, chatting, teacher
from vlmlab.instruction.verdicts import true_answer

__all__ = [
    "DETAILED", "FAULTS", "KINDS", "TEACHERS", "Fault", "Judged", "Parsed", "Teacher", "Told", "broken_rules",
    "chatting", "judge", "make", "parse", "prefix", "prompt", "record", "recorded", "request", "review", "summarise",
    "teacher", "tell", "true_answer",
]  # fmt: skip
