"""Take out of a text what names a person or opens a door, before it is written anywhere.

Replaced: e-mail addresses, phone numbers, street addresses, IP and MAC addresses, card numbers,
IBANs, US social security numbers, keys, tokens and passwords. Names of people are not found.

Left as they are: years, dates, times, prices, decimals, plain numbers such as an order's, version
numbers (of four parts where a word before says so: they look like IP addresses), UUIDs, and the
addresses that every machine has (127.0.0.1, ::1). Hexadecimal digests of 32 digits and more look
like keys and go, unless a word before says that it is a commit or a checksum; a UUID goes where
one says that it is a key.

The time is linear in the length of a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address

from sprue.usage import patterns
from sprue.usage.entropy import is_key

_Match = re.Match[str]


def redact(text: str) -> str:
    """The text with every find replaced by its kind in brackets, such as `[email]`.

    What was redacted once stays as it is.
    """
    if "://" in text:
        text = patterns.IN_URL.sub("[key]@", text)
    if "PRIVATE KEY" in text:
        text = patterns.PEM.sub("[key]", text)
    text = patterns.SAID.sub(_said, text)
    text = patterns.PREFIXED.sub("[key]", text)
    if "@" in text:
        text = patterns.EMAIL.sub("[email]", text)
    text = patterns.RUN.sub(_run, text)
    if patterns.DIGIT.search(text):
        for pattern, replaced in _OF_DIGITS:
            text = pattern.sub(replaced, text)
    return text


def _said(found: _Match) -> str:
    """What follows `password:` or `api_key =`; code, and words that only tell of one, stay."""
    value = found["value"]
    kept = value.rstrip(".!?")
    stays = patterns.MARK.fullmatch(kept) is not None or found["call"] != ""
    if not stays and patterns.WORDS.fullmatch(kept):
        stated = patterns.PASSWORD.search(found["what"]) and found["by"] in ("=", ":", ":=", "=>")
        stays = not stated or not kept.isalpha()
    return found[0] if stays else f"{found['what']}[key]{value[len(kept) :]}"


def _run(found: _Match) -> str:
    run = found[0]
    if patterns.UUID.fullmatch(run) or not is_key(run) or _before(found, patterns.HASHED):
        return run
    return "[key]"


def _before(found: _Match, words: re.Pattern[str]) -> bool:
    """Whether what stands right before it ends so."""
    start = found.start()
    return words.search(found.string[max(0, start - 16) : start]) is not None


def _iban(found: _Match) -> str:
    """ISO 13616: the digits, letters as 10 to 35, the first four last, are 1 modulo 97."""
    plain = re.sub(r"[ -]", "", found[0]).upper()
    if not (15 <= len(plain) <= 34 and plain.isascii()):
        return found[0]
    digits = "".join(str(int(c, 36)) for c in plain[4:] + plain[:4])
    return "[iban]" if int(digits) % 97 == 1 else found[0]


def _card(found: _Match) -> str:
    """The longest start that is a card number, up to where a group of digits ends."""
    run = found[0]
    for end in range(len(run), 12, -1):
        if end < len(run) and run[end].isdigit():
            continue
        digits = re.sub(r"\D", "", run[:end])
        if len(digits) >= 13 and run[end - 1].isdigit() and _luhn(digits):
            return f"[card]{run[end:]}"
    return run


def _luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    values = [int(d) for d in reversed(digits)]
    doubled = sum(sum(divmod(2 * d, 10)) for d in values[1::2])
    return (sum(values[::2]) + doubled) % 10 == 0


def _address(found: _Match) -> str:
    """IP addresses other than those that every machine has."""
    run = found[0]
    kept = run.rstrip(".:") or run
    try:
        address = ip_address(kept)
    except ValueError:
        return run
    if address.is_loopback or address.is_unspecified or _is_other(found, kept):
        return run
    return f"[ip]{run[len(kept) :]}"


def _is_other(found: _Match, kept: str) -> bool:
    """Whether it is a version, or a slice or a name in code, such as `1::2` and `std::abs`."""
    if ":" not in kept:
        return _before(found, patterns.COUNTED)
    groups = [group for group in kept.split(":") if group]
    few = len(groups) < 3 and max(map(len, groups)) < 3
    return few or not any(c.isdigit() for c in kept)


def _phone(found: _Match) -> str:
    """With a plus, as North America writes it, or with a leading zero and gaps."""
    run = found[0]
    digits, groups = re.sub(r"\D", "", run), re.findall(r"\d+", run)
    if patterns.DATE.match(run):
        return run
    international = run.startswith("+") or (run.startswith("00") and digits[2] != "0")
    if international and 8 <= len(digits) <= 17:
        return "[phone]"
    national = digits.startswith("0") and 9 <= len(digits) <= 12
    national = national and len(groups) > 1 and min(map(len, groups)) > 1
    return "[phone]" if national or patterns.NORTH_AMERICA.fullmatch(run) else run


def _called(found: _Match) -> str:
    number = found[2]
    return found[0] if patterns.DATE.match(number) else f"{found[1]}[phone]"


_OF_DIGITS: tuple[tuple[re.Pattern[str], str | Callable[[_Match], str]], ...] = (
    (patterns.MAC, "[mac]"),
    (patterns.COLONS, _address),
    (patterns.IBAN, _iban),
    (patterns.CARD, _card),
    (patterns.SSN, "[ssn]"),
    (patterns.IP4, _address),
    (patterns.CALLED, _called),
    (patterns.NUMBER, _phone),
    (patterns.STREET, "[address]"),
)
