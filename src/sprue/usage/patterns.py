"""What looks like something to redact: bounded patterns that start where a run starts.

Bounds on every repetition, and a look behind that holds only at the start of a run of characters,
keep a search linear in the length of a text, whatever stands in it.
"""

from __future__ import annotations

import re

EMAIL = re.compile(
    r"(?<![\w.%+'-])[\w.%+'-]{1,64}+@(?=[\w.-]{3,255})(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w@])"
)
IN_URL = re.compile(r"(?<=://)[^\s/@:]{0,128}:[^\s/@]{1,256}@")

PEM = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^-]{0,20000}(?:-----END [A-Z ]{1,50}-----)?"
)
_PREFIXED = (
    r"(?:sk|pk|rk)[-_](?=[A-Za-z_-]{0,64}\d)[A-Za-z0-9_-]{16,512}",  # OpenAI, Anthropic, Stripe
    r"gh[pousr]_[A-Za-z0-9]{16,512}|github_pat_[A-Za-z0-9_]{16,512}",
    r"glpat-[A-Za-z0-9_-]{16,512}",
    r"xox[abeoprs]-[A-Za-z0-9-]{10,512}",  # Slack
    r"(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}",  # AWS
    r"AIza[A-Za-z0-9_-]{30,512}|ya29\.[A-Za-z0-9_-]{16,2048}",  # Google
    r"(?:hf|npm|shp(?:at|ca|pa|ss)|dop_v1|sq0[a-z]{3}|whsec|gsk|xai)[_-][A-Za-z0-9]{16,512}",
    r"pypi-[A-Za-z0-9_-]{16,512}",
    r"SG\.[A-Za-z0-9_-]{16,128}\.[A-Za-z0-9_-]{16,128}",  # SendGrid
    # JSON Web Tokens
    r"eyJ[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]{2,8192}(?:\.[A-Za-z0-9_-]{0,8192})?",
)
PREFIXED = re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(_PREFIXED)})")

# A word that says what the next one is.
SAID = re.compile(
    r"(?i)(?<![A-Za-z])(?P<what>(?:api|access|secret|private|auth|client|session|signing)?[ _-]?"
    r"(?:key|token|secret|passw(?:or)?d|passwort|passphrase|pwd|bearer|authorization|credential)s?"
    r"(?:[ _-]?(?:key|id))?[\"']?[ \t]{0,4}(?P<by>:=|=>|[:=]|\bis\b)[ \t]{0,4}[\"'`]?"
    r"(?:(?:bearer|basic|token)[ \t]{1,4})?|(?<![A-Za-z])bearer[ \t]{1,4})"
    r"(?P<value>[^\s\"'`,;<>()\[\]{}]{6,512})(?P<call>\(?)"
)
PASSWORD = re.compile(r"(?i)pass|pwd")
WORDS = re.compile(r"[^\W\d]+(?:\.[^\W\d]+)*")
RUN = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{20,}={0,2}")
UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
HASHED = re.compile(
    r"(?i)(?:commit|revision|\brev|sha-?\d{0,3}|md5|hash|digest|checksum)[\s:=(\"'`]{1,3}$"
)

IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?"
    r"(?![A-Za-z0-9])"
)
CARD = re.compile(r"(?<![\w.,+-])[2-6](?:[ -]?\d){12,18}(?!\d)")
SSN = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")

IP4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
COLONS = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:.]{3,45}+(?!\w)")
MAC = re.compile(
    r"(?<![\w:-])[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}(?![\w:-])"
)
COUNTED = re.compile(
    r"(?i)(?:version|section|\bsec|chapter|before|release|build|part|clause|§)s?[.\s]{0,2}$"
)

_GAP = r"[ \t.()/-]{0,3}"
NUMBER = re.compile(
    rf"(?<![\w.,$€£¥#+-])(?:\+|\(?)\d(?:{_GAP}\d){{6,17}}(?![\w%€£$]|[.,]\d)"  # maybe of a phone
)
CALLED = re.compile(
    r"(?i)(\b(?:phone|tele(?:ph|f)on[oe]?|tel|mobile?|cell|handy|fax|whatsapp|signal|call|text|dial|"
    r"ring|reach)\b[^\d\n+]{0,24}?)"
    rf"(\+?\(?\d(?:{_GAP}\d){{6,14}})(?![\w]|[.,]\d)"
)
DATE = re.compile(r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}\b|\d{4}[./-]\d{1,2}[./-]\d{1,2}\b")
NORTH_AMERICA = re.compile(r"(?:1[-. ])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-. /])[2-9]\d{2}[-. ]\d{4}")

_KINDS = (
    "street|str|st|avenue|ave|road|rd|boulevard|blvd|lane|ln|drive|dr|court|ct|way|square|sq|place|"
    "pl|terrace|parkway|pkwy|highway|hwy|crescent|close|circle|row|alley"
)
_NO_COURT = (  # of law
    r"(?!(?:[\w.]{1,24} ){0,2}(?:Supreme|District|High|Circuit|Superior|Federal|County|Tax) [Cc])"
)
_NAMED = rf"{_NO_COURT}(?:[A-Z0-9][\w'’.-]{{0,24}} ){{1,3}}(?i:{_KINDS})"
_SMALL = r"(?!(?:way|high|the|on|in|of|to|per|more|same)\b)[a-z]{3,24} (?:street|avenue|boulevard)"
_UNIT = r"(?:[ ,]{1,3}(?i:apt|apartment|suite|unit|flat|floor|#)\.? ?[A-Za-z0-9-]{1,6}\b)?"
_CAPITAL = r"[A-ZÀ-Ý][\w'’-]{1,30}"
_STREETS = (
    # 221B Baker Street; 12 main street; 1600 Pennsylvania Ave NW, Suite 4
    rf"(?<![\w.,$€£-])\d{{1,5}}[A-Za-z]? (?:[NSEW]\.? )?(?:{_NAMED}|{_SMALL})\b\.?"
    rf"(?: [NSEW]{{1,2}}\b)?{_UNIT}",
    # Musterstraße 12a, Hauptplatz 3
    r"(?<!\w)[A-ZÄÖÜ][\w.-]{0,30}?(?:straße|strasse|str\.|gasse|weg|platz|allee|ufer|damm)"
    r" ?\d{1,4} ?[a-z]?\b",
    # 12 rue de la Paix; 5, avenue Foch
    r"(?<![\w.,])\d{1,4}(?: ?bis| ?ter)?,? "
    r"(?i:rue|boulevard|avenue|allée|chemin|impasse|quai|place)"
    rf"(?: (?:de|du|des|la|le|les|d'|l'))*? ?{_CAPITAL}(?: {_CAPITAL}){{0,2}}",
    # Calle Mayor 5; Via Roma, 10; Rua Augusta 100
    r"(?<!\w)(?:Calle|Avenida|Plaza|Paseo|Via|Viale|Piazza|Corso|Rua|Praça)"
    rf"(?: (?:de|del|della|dei|la|las|los|do|da|dos))*(?: {_CAPITAL}){{1,3}}"
    r",? (?:n\.? ?)?\d{1,5}\b",
    r"(?<!\w)(?i:p\.? ?o\.? box) \d{1,6}\b",
)
STREET = re.compile("|".join(f"(?:{one})" for one in _STREETS))

DIGIT = re.compile(r"\d")
MARK = re.compile(r"\[[a-z]{2,7}\]?")  # of what was redacted before
