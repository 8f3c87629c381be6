"""The English word lists of the rules judge, and its splitting of a text into words and sentences."""

import re
from collections.abc import Iterator

# A word is a run of letters: "Anna's" gives anna and s, "green_box" gives green and box.
_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE = re.compile(r"[^.!?;\s][^.!?;\n]*[.!?;]*")


def words_of(text: str) -> list[str]:
    """Return the case-folded words of a text."""
    return _WORD.findall(text.casefold())


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each sentence; a line break also ends a sentence."""
    return (match.span() for match in _SENTENCE.finditer(text))


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# --- cues for the stage of a sentence in a text without headings (stages.py)
NEGATION = _set("not never didn doesn don wasn weren couldn cannot unaware without nobody")
PERCEPTION = _set("see saw seen sees hear heard hears notice noticed notices watch watched witness witnessed present")
EVENTS = _set(
    """put puts placed places moved moves move left leaves leave entered enters went goes took takes gave gives said
    says told tells asked asks saw sees heard hears came comes returned returns brought brings hid hides opened opens
    closed closes looked watched walked dropped arrived stayed found happened happens swapped poured showed shows"""
)
REPORT = _set("story passage text states mentions describes mentioned stated cue cues fact facts observe observed")
MENTAL = _set(
    """think thinks believe believes believed belief beliefs know knows knew known unaware aware feel feels felt feeling
    want wants wanted intend intends intended intention hope hopes hoped expect expects expected assume assumes assumed
    realise realises realised realize realizes realized remember remembers suspect suspects mean means implies imply
    suggest suggests because probably likely understands understood mind perspective infer infers"""
)
GOAL = _set("goal goals question determine aim task")
GOAL_NEED = _set("find decide know say tell answer work figure")
CONCLUSION = _set(
    "answer answers option options choose chosen choice choices conclude conclusion respond response correct"
)
CONNECTIVE = _set("so therefore thus hence must finally")

# --- words that are not content words
_FUNCTION = _set(
    """a an the this that these those it its he she they them their his her him we us our you your i me my who whom
    whose which what where when why how is are was were be been being am do does did done has have had having will
    would can could should shall may might must and or but nor so if then than as at by for from in into of off on onto
    out over to up with without about after again all also any both each few more most no not now only other own same
    some such too very just there here through during before between because while until since yes not didn doesn don
    wasn weren isn aren couldn wouldn won t s re ll ve d m first second third next last finally one two still even yet
    ever never"""
)
_META = _set(
    """stage stages step steps story stories passage text scenario scene situation context question questions cue cues
    clue clues information detail details fact facts important relevant key social encode encoding interpret
    interpreting interpretation goal goals clarify respond response responding generate generating answer answers
    option options choice choices correct right wrong best reasoning reason reasons process think thinking thought
    thoughts consider considering carefully analyze analyse analysis identify understand understanding let need needs
    make makes made look looking read reading note noted based given using use everything something anything thing
    things person people someone everyone character characters mental state states"""
)
EMPTY = (
    _FUNCTION | _META | EVENTS | REPORT | PERCEPTION | MENTAL | GOAL | GOAL_NEED | CONCLUSION | CONNECTIVE | NEGATION
)


def content_words(words: set[str]) -> set[str]:
    """Return the words of two letters or more that can name people, objects, places or feelings of the story."""
    return {word for word in words if len(word) > 1 and word not in EMPTY}
