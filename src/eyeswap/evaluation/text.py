"""Answer normalisation shared, with small differences, by VQA v2, VizWiz and TextVQA.

The rules are those of the published scorers, bugs included, because scores must agree to the digit: a punctuation mark
is deleted if it is next to a space *anywhere* in the original text and replaced by a space otherwise; periods not
followed by a digit are removed, but only the first 32; VizWiz's contractions use back-ticks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from eyeswap.errors import DataError


def _words(text: str) -> list[str]:
    return text.split()


_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # the scorers pass a regex flag, whose value is 32, as the count
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {
    word: str(value) for value, word in enumerate(_words("zero one two three four five six seven eight nine ten"))
} | {"none": "0"}

# Written without its apostrophe, each of these is restored.
_ONE_APOSTROPHE = _words("""
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll
    how's I'm I've isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't
    shan't should've shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll
    that's there'd there're there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'll who's who've why'll why're why's won't
    would've wouldn't y'all you'd you'll you're you've
""")
# Written without one of its two apostrophes, each of these is restored.
_TWO_APOSTROPHES = _words("""
    couldn't've hadn't've he'd've I'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've
    something'd've there'd've they'd've we'd've who'd've wouldn't've you'd've
""")
_IRREGULAR = {
    "yall'll": "y'all'll",
    "y'allll": "y'all'll",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
    "somebody'd": "somebodyd",
    "let's": "let's",
    "she's": "she's",
}


def _contractions() -> dict[str, str]:
    table = {word.replace("'", ""): word for word in _ONE_APOSTROPHE}
    for word in _TWO_APOSTROPHES:
        stem, middle, end = word.split("'")
        table[f"{stem}{middle}'{end}"] = word
        table[f"{stem}'{middle}{end}"] = word
    return table | _IRREGULAR


def _vizwiz_contractions(mark: str) -> dict[str, str]:
    kept_keys = {"couldn'tve", "hadn'tve"}
    kept_values = {"ain't", "aren't", "can't", "could've", "couldn't", "we've", "where's", "who've"}
    return {
        key if key in kept_keys else key.replace("'", mark): word if word in kept_values else word.replace("'", mark)
        for key, word in _contractions().items()
    }


CONTRACTIONS: Mapping[str, str] = _contractions()
VIZWIZ_CONTRACTIONS: Mapping[str, str] = _vizwiz_contractions("`")
VIZWIZ_OFFICIAL_CONTRACTIONS: Mapping[str, str] = _vizwiz_contractions("\u2019")


def checked_text(value: object) -> str:
    """Return an answer after checking that it is text.

    Raises:
        DataError: if it is not; the published scorers crash on it.
    """
    if not isinstance(value, str):
        raise DataError(f"an answer must be text, found {type(value).__name__}")
    return value


def strip_lines(text: str) -> str:
    """Replace line breaks and tabs by spaces, then strip."""
    return checked_text(text).replace("\n", " ").replace("\t", " ").strip()


def strip_punctuation(text: str) -> str:
    """Delete punctuation marks or replace them by spaces, and delete periods.

    Example:
        >>> strip_punctuation("1,000"), strip_punctuation("t-shirt"), strip_punctuation("U.S.A")
        ('1000', 't shirt', 'USA')
    """
    has_number = _DIGIT_COMMA_DIGIT.search(checked_text(text)) is not None
    result = text
    for mark in _PUNCTUATION:
        if mark in text:
            is_deleted = has_number or f"{mark} " in text or f" {mark}" in text
            result = result.replace(mark, "" if is_deleted else " ")
    return _PERIOD.sub("", result, count=_MOST_PERIODS)


def normalise_words(text: str, contractions: Mapping[str, str] = CONTRACTIONS) -> str:
    """Return a text in lower case, with number words up to ten as digits, no articles, and restored apostrophes."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


def normalise_answer(text: str, contractions: Mapping[str, str] = CONTRACTIONS) -> str:
    """Return a prediction normalised for the VQA v2 and VizWiz scorers.

    Example:
        >>> normalise_answer("The two dogs.")
        '2 dogs'
    """
    return normalise_words(strip_punctuation(strip_lines(text)), contractions)


def normalise_textvqa(text: str) -> str:
    """Return a text normalised for the TextVQA (M4C) scorer, which removes commas first, so "1,000" needs no rule."""
    text = checked_text(text).lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalise_answer(text)
