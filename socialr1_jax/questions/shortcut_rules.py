"""Rules that answer questions without reading minds: by position, overlap, length, letter, or counts of words.

A rule scores the options of a question and chooses the best one. Ties of n options are broken at random, with
probability 1 / n each, so an uninformative rule performs at chance.
"""

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from socialr1_jax.data.examples import LETTERS, Example

FOLDS = 3

# A word; each Chinese or Japanese character counts as one.
_WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W\u3040-\u30ff\u4e00-\u9fff]+(?:['’][^\W\d_]+)?")
_FUNCTION_WORDS = frozenset(
    _WORD.findall(
        "a an the in on at to of and or is are was were be been it its this that he she his her they their them him i "
        "you we will would for with as by from do does did not no has have had"
    )
)
_EDGES = frozenset(("a", "an", "the", "in", "on", "at", "to"))  # stripped from both ends of an option
_MOST_FEATURES = 15_000_000  # in total
_MOST_CONTEXT_WORDS = 64  # per question, crossed with the words of its options
_MOST_OPTION_WORDS = 32
_FEATURE_BITS = 20
_HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio (Knuth, TAOCP 6.4)
_CHUNK = 2000  # questions


class Credits(NamedTuple):
    """Each rule's probability of being right [q], and whether the story mentions any option [q]."""

    rules: dict[str, np.ndarray]
    mentioned_q: np.ndarray


def fixed_rules(examples: Sequence[Example]) -> Credits:
    """Return the credits of rules that use one question at a time. All examples must have options.

    `letter_X` always chooses X, the most frequent gold letter.
    """
    rows = [_fixed_scores(example) for example in examples]
    rules = {
        name: np.array([_credit(row[name], gold(example)) for row, example in zip(rows, examples, strict=True)])
        for name in rows[0]
    }
    letter = Counter(example.answer for example in examples).most_common(1)[0][0]
    # A question without that letter is a guess.
    rules[f"letter_{letter}"] = np.array(
        [
            float(item.answer == letter) if LETTERS.index(letter) < len(item.options) else 1 / len(item.options)
            for item in examples
        ]
    )
    mentioned_q = np.array([any(row["most_mentioned"]) for row in rows])
    return Credits(rules, mentioned_q)


def constant_rule(examples: Sequence[Example], folds_q: np.ndarray) -> np.ndarray:
    """Return the credit [q] of the most frequent answer to questions of the same form in the other folds.

    The form of a question is its text without the content words of its story and options.
    """
    forms = [_form(example) for example in examples]
    credit_q = np.zeros(len(examples))
    for fold in range(FOLDS):
        of_form: dict[tuple[str, ...], Counter[str]] = {}
        of_all: Counter[str] = Counter()
        for example, form in ((e, f) for e, f, k in zip(examples, forms, folds_q, strict=True) if k != fold):
            text = example.options[gold(example)].casefold()
            of_form.setdefault(form, Counter())[text] += 1
            of_all[text] += 1
        for place in np.flatnonzero(folds_q == fold).tolist():
            example, known = examples[place], of_form.get(forms[place], Counter())
            texts = [option.casefold() for option in example.options]
            credit_q[place] = _credit([(known[text], of_all[text]) for text in texts], gold(example))
    return credit_q


def learned_rules(examples: Sequence[Example], folds_q: np.ndarray) -> dict[str, np.ndarray]:
    """Return the credit [q] of naive Bayes on words, trained on two folds and applied to the third.

    Features are the words of an option, alone and crossed with each word of the question (`no_story`) or of story and
    question (`bag_of_words`). The class is whether the option is the gold one.

    Raises ImportError if scikit-learn is not installed.
    """
    questions = [_words(example.question) for example in examples]
    both = [words + _words(example.story) for words, example in zip(questions, examples, strict=True)]
    return {
        "no_story": _naive_bayes(examples, questions, folds_q),
        "bag_of_words": _naive_bayes(examples, both, folds_q),
    }


def question_form(example: Example) -> tuple[str, ...]:
    """Return a key shared by questions of one story that ask the same about different people or things."""
    return (*_form(example), *sorted(option.casefold() for option in example.options))


def gold(example: Example) -> int:
    """Return the index of the gold option."""
    return LETTERS.index(example.answer)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _credit(scores: Sequence[object], right: int) -> float:
    best = max(scores)  # type: ignore[type-var]
    return 1 / scores.count(best) if scores[right] == best else 0.0


def _fixed_scores(example: Example) -> dict[str, list[float]]:
    story, places = _places(example.story)
    question = _words(example.question)
    options = [_words(option) for option in example.options]
    mentions = [_mentions(words, story, places) for words in options]
    lasts = [places[-1] if places else -1 for places in mentions]
    second = sorted({last for last in lasts if last >= 0})[-2:-1]
    context, asked = places.keys() | set(question), set(question)
    counts = [float(len(starts)) for starts in mentions]
    return {
        "first_mentioned": [float(-starts[0]) if starts else -np.inf for starts in mentions],
        "last_mentioned": [float(last) for last in lasts],
        "second_to_last_mentioned": [float(last in second) for last in lasts],
        "most_mentioned": counts,
        "least_mentioned": [-count for count in counts],
        "overlap": [float(len(context & set(words))) for words in options],
        "question_overlap": [float(len(asked & set(words))) for words in options],
        "longest": [float(len(option)) for option in example.options],
        "shortest": [float(-len(option)) for option in example.options],
    }


@functools.lru_cache(16)  # questions of a story are adjacent
def _places(story: str) -> tuple[list[str], dict[str, list[int]]]:
    """Return the words of a story, and the positions of each word."""
    words, places = _words(story), dict[str, list[int]]()
    for place, word in enumerate(words):
        places.setdefault(word, []).append(place)
    return words, places


def _mentions(option: list[str], story: Sequence[str], places: Mapping[str, list[int]]) -> list[int]:
    """Return the positions of an option in a story: of all its words in sequence, else of any content word."""
    first, last = 0, len(option)
    while first < last and option[first] in _EDGES:
        first += 1
    while last > first and option[last - 1] in _EDGES:
        last -= 1
    whole = option[first:last] or option
    if not whole:
        return []
    if starts := [place for place in places.get(whole[0], ()) if story[place : place + len(whole)] == whole]:
        return starts
    content = set(whole) - _FUNCTION_WORDS
    return sorted(place for word in content for place in places.get(word, ()))


def _form(example: Example) -> tuple[str, ...]:
    named = (_places(example.story)[1].keys() | set(_words(" ".join(example.options)))) - _FUNCTION_WORDS
    return tuple("_" if word in named else word for word in _words(example.question))


def _naive_bayes(examples: Sequence[Example], contexts: Sequence[list[str]], folds_q: np.ndarray) -> np.ndarray:
    """Return the credit [q] of naive Bayes on the words of `contexts` crossed with those of the options."""
    from sklearn.naive_bayes import MultinomialNB

    features, question_r, gold_r = _features(examples, contexts)
    score_r = np.zeros(len(gold_r))
    fold_r = folds_q[question_r]
    for fold in range(FOLDS):
        if not (asked_r := fold_r == fold).any():
            continue
        model = MultinomialNB(alpha=1.0, fit_prior=False)
        model.fit(features[~asked_r], gold_r[~asked_r])
        score_r[asked_r] = features[asked_r] @ (model.feature_log_prob_[1] - model.feature_log_prob_[0])
    score_r = np.round(score_r, 9)  # rounding errors must not break a tie
    starts = np.flatnonzero(np.diff(question_r, prepend=-1))
    best_r = score_r == np.maximum.reduceat(score_r, starts)[question_r]
    return np.add.reduceat(best_r & gold_r, starts) / np.add.reduceat(best_r, starts)


def _features(examples: Sequence[Example], contexts: Sequence[list[str]]):  # type: ignore[no-untyped-def]
    """Return (features [r, 2^20] sparse, question [r], whether it is gold [r]); a row is an option of a question."""
    from scipy.sparse import csr_matrix, vstack

    numbers: dict[str, int] = {}
    asked = [list({numbers.setdefault(word, len(numbers)) for word in words}) for words in contexts]
    options = [
        [[numbers.setdefault(word, len(numbers)) for word in dict.fromkeys(_words(option))] for option in one.options]
        for one in examples
    ]
    options = [[words[:_MOST_OPTION_WORDS] for words in one] for one in options]
    # Keep the context words with the largest variance over questions; words in all or in one carry no information.
    present = np.fromiter((word for words in asked for word in words), np.int64)
    share_w = np.bincount(present, minlength=len(numbers)) / len(examples)
    weight_w = share_w * (1 - share_w)
    crossed = sum(len(words) for one in options for words in one)
    most = int(np.clip(_MOST_FEATURES // max(1, crossed), 4, _MOST_CONTEXT_WORDS))
    for words in asked:
        words.sort(key=lambda word: (-weight_w[word], word))
        del words[most:]
    parts = []
    for start in range(0, len(examples), _CHUNK):
        columns, lengths = [], []
        for words, one in zip(asked[start : start + _CHUNK], options[start : start + _CHUNK], strict=True):
            context_c = np.array([0, *(word + 1 for word in words)], np.uint64)[:, None] << np.uint64(32)
            for option in one:
                crossed_f = (context_c + np.array(option, np.uint64)).ravel() * _HASH >> np.uint64(64 - _FEATURE_BITS)
                columns.append(crossed_f)
                lengths.append(len(crossed_f))
        column_f = np.concatenate(columns).astype(np.int32)
        row_starts = np.concatenate([[0], np.cumsum(lengths)])
        shape = (len(lengths), 2**_FEATURE_BITS)
        parts.append(csr_matrix((np.ones(len(column_f), np.float32), column_f, row_starts), shape=shape))
    counts = [len(one) for one in options]
    question_r = np.repeat(np.arange(len(examples)), counts)
    gold_r = np.zeros(len(question_r), bool)
    gold_r[np.cumsum([0, *counts[:-1]]) + [gold(example) for example in examples]] = True
    return vstack(parts, format="csr"), question_r, gold_r
