"""Read the option letter that an answer to a multiple-choice question names.

Used by the outcome reward, the protocol `social_r1` and the benchmarks without an official reader (SocialIQA, Hi-ToM).
Forms are tried from the plainest to the weakest; the first that applies decides:

1. the first line is a letter and nothing else ("B", "(b)", "**B**"), or an option's text;
2. the last explicit statement ("the answer is B", "Answer: B", "\\boxed{B}"), then the last choice or praise ("I choose
   B", "B is correct"), except negated and hypothetical ones;
3. the text begins with a letter and a mark ("B. stay", "B - stay", "B, because ..."), and lists no other options;
4. the last conclusion ("so B.", "it must be B");
5. the text ends with its only letter ("..., B."), or only words like "definitely" precede the letter.

In a whole reply, which is read with its options' texts, a first paragraph of form 1, 2 or 3 decides alone. The text
after the blank line is its explanation, unless it lists options or retracts the answer.

Articles ("A friend would"), the pronoun ("I think"), words ("Anna") and lists ("A or B") name no letter. Every pattern
is bounded, so the time is linear in the length of the text.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from socialr1_jax.data.examples import LETTERS

# Typography that is removed first.
_BOXED = re.compile(r"\\f?box(?:ed)?\s{0,3}|<answer>|\[answer\]", re.IGNORECASE)
_COMMAND = re.compile(
    r"\\(?:text|math)[a-z]{0,10}|\\[,;! ]|</?(?:[A-Za-z]{2,20}|[a-z])>|<\|[a-z_]{1,20}\|>|~~[^~\n]{1,80}~~"
)
_EMPHASISED = re.compile(r"(?<![A-Za-z0-9])[*_`]{1,3}([A-Za-z])[*_`]{1,3}(?![A-Za-z0-9])")
_MARKS = re.compile(r"[*`~$\"“”„«»{}\[\]\\#<>【】「」]|(?<![A-Za-z])['‘’_]|['‘’_](?![A-Za-z])")
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad\ufe0f]")
_BULLET = re.compile(r"^ ?[-•–—+]+ ?| $", re.MULTILINE)
_SPACE_BEFORE_MARK = re.compile(r" ([.,;:!?)])")

_END = "(?![A-Za-zÀ-ɏ])"  # of a Latin word; other scripts have no spaces between words
_LETTER = r"(?<![A-Za-z0-9À-ɏ])(?<![A-Za-z]['’-])\(?[ ]?([A-Za-z])(?![A-Za-z0-9À-ɏ]|['’-][A-Za-z])[ ]?\)?"
_LINK = rf"(?:(?:is|are|was|be|es|est|é|è|ist|será){_END}|[:=-]|是|为|は|은|는|应选|选)"
_FILLER = (
    r"(?:[\s:=,.–—-]|->|['’]s(?![A-Za-z])|(?:it|that|is|are|was|be|to|as|should|must|would|will|has|have|seems?|"
    r"appears?|therefore|thus|so|then|clearly|definitely|certainly|surely|most|more|likely|probably|simply|just|"
    r"option|choice|letter|number|the|my|this|question|answer|correcta?|correcte|best|right|final|here|indeed|only|"
    rf"given|called|labell?ed|es|est|é|è|ist|la|opción|yes|okay|well){_END}|应该|应|为|是|选项|选|项|は|은|는)"
)
_KEY = (
    rf"(?:(?<![A-Za-z])(?:answers?|ans|solution|conclusion|verdict|correction|respuesta|réponse|resposta|"
    rf"risposta|antwort){_END}|(?<![A-Za-z])(?:options?|choices?|selection|letter|response|pick){_END}(?=[ ]?{_LINK})"
    rf"|(?<![A-Za-z])(?:options?|choices?){_END}(?=[ ](?:should|must|would)[ ]be)"
    r"|答案|选项(?=[是为])|正解|答え|정답|ответ)"
)
_VERB = (
    rf"(?:(?<![A-Za-z])(?:choose|chose|choosing|pick(?:ed|ing)?|select(?:ed|ing)?|prefer|think|believe|say|guess|"
    rf"conclude|go(?:ing)?[ ]with|opt(?:ing)?[ ]for|vote[ ]for){_END}|选择|选)"
)
_EXPLICIT = re.compile(rf"({_KEY}){_FILLER}{{0,12}}{_LETTER}", re.IGNORECASE)
_CHOSEN = re.compile(rf"({_VERB}){_FILLER}{{0,12}}{_LETTER}", re.IGNORECASE)
_PRAISED = re.compile(
    rf"(){_LETTER}(?:[ ]\([^()\n]{{1,60}}\))?(?:[ ](?:is|was|seems|appears|looks|"
    r"would[ ]be|must[ ]be|should[ ]be)[ ](?:to[ ]be[ ])?"
    r"(?:(?:the|my|clearly|most|more|very|definitely|probably|obviously|likely)[ ]){0,3}"
    rf"(?:correct|right|best|answer|appropriate|plausible|most[ ]likely|suitable|fitting|accurate|final){_END}"
    rf"|[ ](?:fits|matches)[ ]be(?:st|tter){_END}|[ ]makes[ ](?:the[ ])?most[ ]sense{_END}"
    rf"|[ ]best[ ](?:fits|captures|describes|matches|explains|reflects|represents){_END}"
    rf"|[ ]?[:.)-]{{1,2}}[ ](?:✅[ ]?)?(?:this[ ]is[ ])?(?:the[ ])?"
    rf"(?:correct|supported|right{_END}(?![ ][a-z])){_END}|[ ]?:?[ ]?✅"
    rf"|[ ]the[ ](?:best|right|correct|most[ ]\w{{1,15}}){_END}"
    r"|[ ]?(?:选项|项)?(?:是)?[更最]?(?:正确|合理|合适|好|对))",
    re.IGNORECASE,
)
_CONCLUDED = re.compile(
    rf"(?:(?<![A-Za-z])(?:corresponds?[ ]to|match(?:es)?){_END}[ ](?:the[ ])?|\((?=option)"
    rf"|(?<![A-Za-z])(?:so|thus|therefore|hence|but|instead|rather|is|be|it['’]?s|that['’]?s){_END}[, ]{{1,2}}|是)"
    rf"(?:(?:it|that)[ ](?:is|must[ ]be)[ ]|rather[ ]|(?:the[ ])?option[ ]){{0,2}}{_LETTER}"
    r"(?=\s*(?:[.,;:!)\n。，；、]|$))",
    re.IGNORECASE,
)
_LABEL = rf"(?:(?:the|my|final|correct|best|answer|ans|option|choice|letter|is){_END}|答案|选项|选择|选|为|是)"
_BARE_LINE = re.compile(rf"((?:[\s.,:=-]|{_LABEL}){{0,12}}){_LETTER}[^\w?？+]{{0,8}}", re.IGNORECASE)
_LEADING = re.compile(
    rf"(?:(?:option|choice|letter)[ ])?{_LETTER}(?:[.:,;!。、]|[ ]?(?:[-–—=/](?=[ ])|\n|[(]|选项|项)|\)|[ ](?=[一-鿿])|"
    r"[ ](?:because|since|as(?![ ]well)|rather[ ]than|instead[ ]of|(?:and[ ])?not)[ ])",
    re.IGNORECASE,
)
_SURELY = re.compile(
    rf"(?:[\s:,.!-]|(?:definitely|probably|surely|clearly|certainly|obviously|likely|perhaps|yes|ok|okay|well|then|so|"
    rf"it|is|must|be|my|the|correct|right|final|best|answer|option|choice|pick|vote|letter){_END}){{0,10}}"
    rf"{_LETTER}[.! )]{{0,3}}",
    re.IGNORECASE,
)

# The context of a letter.
_LIST_AFTER = re.compile(
    r"\s{0,3}\(?(?:(?:[,;/&+、]|and|or|nor|und|oder|plus|as well as|along with|还是|和|或|与)[ ]?){1,3}"
    r"(?:(?:and|or|also|maybe|perhaps|possibly|both|option|choice|选|(?:the )?answer:?)[ ]?){0,2}"
    rf"{_LETTER}|\s{{0,2}}(?<=\s){_LETTER}(?=\W{{0,3}}$|\n)",
    re.IGNORECASE,
)
_ONLY_LINKS = re.compile(
    r"(?:[\s,;:/&+().-]|or|and|answers?|boxed|the|is|correct|right|或|和|还是){0,12}", re.IGNORECASE
)
_NEGATED_AFTER = re.compile(
    r"[).,:]?[ ](?:(?:is|was|are|can|could|would|does|do|will)(?:[ ]not(?![A-Za-z])|n['’]t)|cannot"
    r"|(?:is|was|are|seems|would[ ]be)[ ](?:\w+[ ])?(?:wrong|incorrect|false|out|ruled|excluded|impossible|implausible"
    r"|unlikely|tempting)|makes[ ]no[ ]sense)|[ ]?(?:选项|项)?是?(?:不|错|并非)",
    re.IGNORECASE,
)
_NEGATED_BEFORE = re.compile(
    r"(?:(?<![A-Za-z])(?:not|cannot|never|neither|nor|without|than|except|eliminate|exclude|rule out|no es|"
    r"n['’]est pas|nicht|(?:all|everything|anything|any|none) but)"
    r"|n['’]t|不可能是?|不会是?|并非|不是|不|非|排除|(?:could|might|may)(?=[ ]be))[ ]?(?:be[ ]|to[ ])?\(?$",
    re.IGNORECASE,
)
_NEGATED_KEY = re.compile(
    r"(?:(?:(?<![A-Za-z])(?:not|never|cannot)|n['’]t)[ ](?:\w{1,12}[ ])?"
    r"|(?:wrong|incorrect|false|worst|bad|unlikely)[ ]|least[ ]\w{1,12}[ ]|wrong[ ]to[ ]|不|不能|不应该?)$",
    re.IGNORECASE,
)
_DOUBTED = re.compile(
    r"(?:(?<![A-Za-z])not|n['’]t|never)[ ](?:think|believe|say|sure|certain|convinced|agree|know)(?![A-Za-z])"
    r"[^.;!?\n]{0,25}$",
    re.IGNORECASE,
)
_WRONG_ONE = re.compile(
    r"(?:wrong|incorrect|false|worst|least \w{1,12}|unlikely) (?:answer|option|choice|one)s?[^.,;!?\n]{0,15}$",
    re.IGNORECASE,
)
_SPEAKER = re.compile(
    r"(?:^|[.!?;:,(\n-]|(?<![A-Za-z])(?:so|thus|therefore|hence|then|and|but|because|since|here)(?![A-Za-z]))\s{0,2}"
    r"(?:(?:i|we|my|i['’]d|we['’]d|i['’]ll|we['’]ll|i['’]m|we['’]re|let['’]s|would|will|should|must|can|"
    r"have to|am|are|going to|to|do|still|also|definitely|therefore|我|应该|应|会|要)[ ]?){0,5}$",
    re.IGNORECASE,
)
_IF = re.compile(r"(?<![A-Za-z])(?:if|had|were|unless)(?![A-Za-z])|如果", re.IGNORECASE)
_WORDS_AFTER_A = re.compile(
    r"[ ](?:is|are|was|and|or|nor|but|because|since|as|would|seems|fits|matches|not|which|for|in|rather|instead|over|"
    r"with|here|too|due|given|must|should|makes|if|when|based|according|to|by|plus|along|ignores|"
    r"than|a|an|the|he|she|they|his|her|their)(?![A-Za-z])"
)
_WORDS_AFTER_I = re.compile(r"[ ](?:is|because|since)(?![A-Za-z])")
_OTHERS = re.compile(
    r"(?:(?:thinks|believes|says|said|thought)[ ](?:that[ ])?|(?<![A-Za-z])so[ ](?:is|are)[ ]|"
    r"(?:because|since|although|though|while|only|if)[ ](?:option[ ])?)$",
    re.IGNORECASE,
)
_BEFORE_OPTION = re.compile(r"(?:(?:the|my|final|correct|answer|is|it|in|would|be)[ ])+")
_HEADING = re.compile(r"[\s\W]*(?:\w+[ ])?answer[\s:.-]*", re.IGNORECASE)
_PARAGRAPH = re.compile(r"\n\s*\n")
_TAKEN_BACK = re.compile(
    r"(?<![A-Za-z])(?:wait|correction|second thoughts?|reconsider|i was wrong|actually,)(?![A-Za-z])", re.IGNORECASE
)
_PREFIX = re.compile(
    r"[^\w(]+|\d{1,2}[.)][ ]|(?:of course|sure|certainly|okay|ok|yes|well|based on [^,.\n]{1,60})[!,.:][ ]",
    re.IGNORECASE,
)
_AT_THE_END = re.compile(rf"(?:[,.!。，]|\n|(?=\())[ ]?\n{{0,3}}{_LETTER}[.! )。]{{0,3}}", re.IGNORECASE)
_CAPITAL = re.compile(r"[A-Z]")
_MOST_LINES = 60
_LONGEST = 4000  # characters read at each end of a text


AnswerMode = Literal["plain", "reference"]


def answer_letter(text: str, mode: AnswerMode = "plain") -> str:
    """Return the letter that the text inside `<Answer>` names, "" if none.

    `plain` is `named_letter`; `reference` is the published pattern, the first capital letter anywhere.
    """
    if mode == "plain":
        return named_letter(text)
    first = _CAPITAL.search(text)
    return first[0] if first else ""


def named_letter(text: str, letters: str = LETTERS, options: Sequence[str] = ()) -> str:
    """Return the capital letter that a text plainly names, "" if it names none, several or none of `letters`.

    Args:
        text: an answer or a reply without its thoughts; any string.
        letters: the letters of the options.
        options: the options' texts in the order of `letters`; a first line equal to one of them names it. If given, the
            text is a whole reply, whose first paragraph may be the answer and the rest an explanation.
    """
    if len(text) > 2 * _LONGEST:
        text = f"{text[:_LONGEST]}\n{text[-_LONGEST:]}"
    text = _cleaned(text)
    letter = _by_option(text, letters, options) or (_answer_first(text) if options else None)
    for form in (_bare_line, _explicit, _leading, _chosen, _concluded, _at_the_end):
        if letter is not None:
            break
        letter = form(text)
    return letter if letter and letter in letters else ""


def _answer_first(text: str) -> str | None:
    """Return the letter of a first paragraph that is an answer, followed by a blank line and an explanation.

    Returns None if a list of options or second thoughts follow.
    """
    head, *rest = _PARAGRAPH.split(text, 1)
    if rest and _HEADING.fullmatch(head):
        head, *rest = _PARAGRAPH.split(rest[0], 1)
        head = f"answer: {head}"
    if not rest or _TAKEN_BACK.search(rest[0]):
        return None
    lines = [line for line in rest[0].split("\n", _MOST_LINES) if line]
    if not lines or _LEADING.match(lines[0]) or all(map(_BARE_LINE.fullmatch, lines)):
        return None
    return _bare_line(head) or _explicit(head) or _leading(head) or None


def _cleaned(text: str) -> str:
    """Return the text without typography: full-width forms, LaTeX, Markdown, JSON, quotes, tags and bullets."""
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", _few_marks(text))).replace("→", "-").replace("|", " - ")
    text = _COMMAND.sub(" ", _BOXED.sub("\nanswer: ", text))
    text = _MARKS.sub(" ", _EMPHASISED.sub(r"(\1)", text))
    text = _BULLET.sub("", re.sub(r"[ \t]+", " ", text))
    text = _SPACE_BEFORE_MARK.sub(r"\1", text).strip()
    prefix = _PREFIX.match(text)
    return text[prefix.end() :] if prefix else text


def _few_marks(text: str) -> str:
    """Return the text with runs of at most 30 combining marks, which take quadratic time to normalize."""
    if text.isascii():
        return text
    characters, run = [], 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run <= 30:
            characters.append(character)
    return "".join(characters)


def _by_option(text: str, letters: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option whose text is the first line, perhaps after words like "the answer is"."""
    first_line = _plain(text.partition("\n")[0])
    same = [letter for letter, option in zip(letters, options, strict=False) if _plain(option) == first_line]
    return same[0] if len(same) == 1 else None


def _plain(text: str) -> str:
    words = " ".join(re.findall(r"[^\W_]+", _cleaned(text).casefold()))
    return _BEFORE_OPTION.sub("", words) or words


def _bare_line(text: str) -> str | None:
    """Return the letter on the first line; "" if other lines are other letters and no statement decides."""
    lines = [line for line in text.split("\n", _MOST_LINES)[:_MOST_LINES] if line.strip(" :.-")]
    if len(lines) > 1 and _HEADING.fullmatch(lines[0]):
        lines[:2] = [" ".join(lines[:2])]  # a heading
    bare = [match for line in lines if (match := _BARE_LINE.fullmatch(line)) and not _article_line(line)]
    if not bare or not _BARE_LINE.fullmatch(lines[0]) or _article_line(lines[0]):
        return None
    if len({match[2].upper() for match in bare}) > 1:  # headings of options, or a list
        return _explicit(text) or _chosen(text) or ""
    label, letter = bare[0][1], bare[0][2].upper()
    if "answer" not in label.lower():
        return letter
    return _explicit(text) or letter


def _article_line(line: str) -> bool:
    return bool(re.fullmatch(r"(?:is|the|my|答案)[ ][a-z]", line))


def _explicit(text: str) -> str | None:
    """Return the letter of the last explicit statement, "" if it names several."""
    return _last(text, (_EXPLICIT,))


def _chosen(text: str) -> str | None:
    """Return the letter of the last choice or praise, "" if it names several."""
    return _last(text, (_CHOSEN, _PRAISED))


def _last(text: str, patterns: Sequence[re.Pattern[str]]) -> str | None:
    matches = [match for pattern in patterns for match in pattern.finditer(text)]
    letter, end = None, -1
    for match in sorted(matches, key=lambda match: match.start(2)):
        named = _statement(text, match)
        if named is None:
            continue
        corrected = match[1].lower() == "correction"
        linked = end >= 0 and not corrected and _ONLY_LINKS.fullmatch(text[end : match.start()])
        letter, end = "" if linked and named != letter else named, match.end()
    return letter


def _statement(text: str, match: re.Match[str]) -> str | None:
    """Return the letter that a statement names, None if it is negated, hypothetical or another person's."""
    key, at = match.start(1), match.start(2)
    before = text[max(0, key - 60) : key]
    if match.re is _PRAISED and _OTHERS.search(text[max(0, at - 20) : at].removesuffix("(")):
        return None
    if _NEGATED_KEY.search(before) or _DOUBTED.search(before) or _DOUBTED.search(text[max(0, at - 60) : at]):
        return None
    if match.re is _CHOSEN and not _SPEAKER.search(before) and match[1][:1] != "选":
        return None
    start, rest = re.split(r"[.!?\n]", before)[-1], re.split(r"[.!?\n]", text[at + 1 : at + 100])[0]
    if " would" in text[key : match.end()] and _IF.search(f"{start} {rest}"):
        return None
    after = text[at + 1 : at + 40]
    if match.re is _EXPLICIT and not re.search(rf"{_LINK}|\n", text[match.end(1) : at], re.IGNORECASE):
        if re.match(r"\)?[ ](?!(?:because|since|as|-)(?![a-z]))[a-z]", after):  # "Answer C ignores the feelings"
            return None
        if match[1].lower() == "answers":
            return None
    return _letter(text, at, match.end() if match.re is not _PRAISED else at + 1, lower=match.re is _PRAISED)


def _leading(text: str) -> str | None:
    match = _LEADING.match(text)
    if not match or (
        text[match.start(1)].islower() and not (match[0][0] == "(" or re.match("[b-hj-z][.):] ", match[0] + " "))
    ):
        return None
    letter = _letter(text, match.start(1), match.end(1), article=match[0][-1] in ",;!\n/ ", lower=True)
    rest = text[match.end() :]
    if letter and match[0][-1] in ":-–—=/" and re.fullmatch(rf"[\s>-]{{0,3}}{_LETTER}\W{{0,3}}", rest):
        return ""
    if letter == "A":  # "A. go, B. stay": a list of the options
        mark = re.escape(text[match.end(1)]) if match.end(1) < len(text) else r"\."
        if re.search(rf"(?<![A-Za-z0-9])\(?B\)?{mark}", rest):
            return None
    return letter or None


def _concluded(text: str) -> str | None:
    letter = None
    for match in _CONCLUDED.finditer(text):
        before = text[max(0, match.start() - 60) : match.start(1)]
        odd = _DOUBTED.search(before) or _WRONG_ONE.search(before) or _OTHERS.search(text[: match.start(1)][-20:])
        named = None if odd else _letter(text, match.start(1), match.end())
        letter = letter if named is None else named
    return letter


def _at_the_end(text: str) -> str | None:
    """Return the only letter of a text if the text ends with it or only words like "definitely" precede it."""
    match = _SURELY.fullmatch(text)
    if match is None:
        end = text[-12:] if text.count(" ") > 2 or "\n" in text else ""
        match = next((last for last in _AT_THE_END.finditer(end) if last.end() == len(end)), None)
        capitals = {letter[1] for letter in re.finditer(_LETTER, text) if letter[1].isupper()} - {"I"}
        if match is None or capitals - {match[1]}:
            return None
        text = end
    return _letter(text, match.start(1), match.end()) if text[match.start(1)].isupper() else None


def _letter(text: str, at: int, end: int, *, article: bool = True, lower: bool = False) -> str | None:
    """Return the letter at `at`, None if it is an article, a pronoun or negated, "" if it begins a list."""
    letter, after = text[at], text[at + 1 : at + 60]
    if letter.islower():
        if not lower and not re.match(r"\s*(?:$|[).,;:!\n])", after):
            return None
    elif article and re.match(r"[ ][a-z]|['’]", after):
        if letter == "A" and not _WORDS_AFTER_A.match(after):
            return None
        if letter == "I" and not _WORDS_AFTER_I.match(after):
            return None
    if re.match(r"\)?[ ]?[?？]", after):
        return None
    if _NEGATED_BEFORE.search(text[max(0, at - 16) : at]) or _NEGATED_AFTER.match(after):
        return None
    if listed := _LIST_AFTER.match(text, max(end, at + 1)):
        group = 1 if listed[1] else 2
        second, place = listed[group], listed.end(group)
        if second.isupper() and second != letter.upper():
            words = text[place : place + 60]
            article_follows = second in "AI" and re.match(r"[ ][a-z]", words) and not _WORDS_AFTER_A.match(words)
            if not article_follows and not _NEGATED_AFTER.match(words):
                return ""
    return letter.upper()
