"""What is taken out of a text, and what stays."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sprue.usage.entropy import is_key
from sprue.usage.redact import redact

# What it says -> what is left of it. Keys and numbers are the documented examples of their makers.
TAKEN = {
    "mail jane.doe+x@mail.example.co.uk please": "mail [email] please",
    "mail müller@büro.de, ok?": "mail [email], ok?",
    "<o'neil@example.org>.": "<[email]>.",
    "call +1 (415) 555-2671 today": "call [phone] today",
    "+49 171 2345678": "[phone]",
    "reach me on 4155552671.": "reach me on [phone].",
    "(415) 555-2671": "[phone]",
    "415-555-2671": "[phone]",
    "0171 / 2345678": "[phone]",
    "06 12 34 56 78": "[phone]",
    "020 7946 0958": "[phone]",
    "0044 20 7946 0958": "[phone]",
    "card 4111 1111 1111 1111 12/26": "card [card] 12/26",
    "4111-1111-1111-1111": "[card]",
    "378282246310005 and 6011000990139424": "[card] and [card]",
    "IBAN DE89 3704 0044 0532 0130 00 danke": "IBAN [iban] danke",
    "gb82west12345698765432": "[iban]",
    "my SSN is 078-05-1120": "my SSN is [ssn]",
    "key sk-proj-abcDEF1234567890abcdef": "key [key]",
    "AKIAIOSFODNN7EXAMPLE": "[key]",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY": "[key]",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a!": "[key]!",
    "AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY": "[key]",
    "xoxb-123456789012-abcdef": "[key]",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVm-N_": "[key]",
    "d41d8cd98f00b204e9800998ecf8427e": "[key]",
    "password: hunter22!": "password: [key]!",
    "password=hunter": "password=[key]",
    'api_key = "0123-4567"': 'api_key = "[key]"',
    "Authorization: Bearer abcdef123456": "Authorization: Bearer [key]",
    "token=550e8400-e29b-41d4-a716-446655440000": "token=[key]",
    "postgres://bob:s3cr3t@db.local/x": "postgres://[key]@db.local/x",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nok": "[key]\nok",
    "my ip is 192.168.10.23.": "my ip is [ip].",
    "2001:0db8:85a3:0000:0000:8a2e:0370:7334": "[ip]",
    "fe80::1ff:fe23:4567:890a": "[ip]",
    "00:1B:44:11:3A:B7": "[mac]",
    "I live at 221B Baker Street, London": "I live at [address], London",
    "at 12 main street": "at [address]",
    "1600 Pennsylvania Ave NW, Washington": "[address], Washington",
    "Musterstraße 12a": "[address]",
    "wohne Hauptstr. 5": "wohne [address]",
    "12 rue de la Paix, Paris": "[address], Paris",
    "Calle Mayor 5": "[address]",
    "P.O. Box 123": "[address]",
}

STAYS = (
    "in 2024 there were 1,234,567 people",
    "on 2024-01-02 10:20:30 and 01.02.2024",
    "01-02-2024 12:00",
    "$1,234.56 or 1 234 567,89 € or 100 000 000 000",
    "version 1.2.3 and v1.2.3.4 and version 10.0.1.4",
    "550e8400-e29b-41d4-a716-446655440000",
    "commit 3f2a1bc and commit 1e206baedf8bef0334cca3eb92bab134ef525a28",
    "127.0.0.1:8080 and 0.0.0.0 and ::1",
    "order 12345678, time 1700000000",
    "std::vector<int> a::b and x[::2] and x[1::2]",
    "12:30:45, 9:00 - 17:30",
    "3.14159265358979 2e-05 0x7fff5fbff8c0",
    "how does the password work? the token is a word, the key is important",
    "key = key.encode('utf-8'); passwd = fallback_getpass(prompt, stream)",
    "call 10 people in 2024, text 3 of 12",
    "10 people walked the street, a 2 way street",
    "the Prague 8 District Court",
    "user@localhost and @mention and react@18.2.0",
    "src/main/java/com/example2/FileReaderV2Test.java",
    "Wav2Vec2FeatureExtractor resnet50_imagenet1k_v2_224x224",
    "https://example.com/a/b-c-d_2024/page-12?x=1",
    "4111111111111112 and 1234567890123456",
    "ISBN 978-3-16-148410-0",
    "AB12 is a plate, and DE00 1234 5678 9012 3456",
    "1 2 3 4 5 6 7 8 9 10 and 5-10-15-20-25-30 and [0 0 0 0 1 1 1 1 0]",
    "pages 12-34, 56-78; 1990-2000 2010-2020",
    "COVID-19 and SARS-CoV-2 and GPT-4",
    "",
    " \n\t",
    "日本語のテキスト 🙂",
)


@pytest.mark.parametrize("text", TAKEN)
def test_what_names_a_person_or_opens_a_door_is_taken(text: str) -> None:
    assert redact(text) == TAKEN[text]


@pytest.mark.parametrize("text", [*TAKEN, *STAYS])
def test_twice_is_as_once(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("text", STAYS)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


def test_all_of_several_are_taken() -> None:
    text = ", ".join(["a@b.org", "+49 171 2345678", "10.1.2.3", "4111111111111111"] * 50)
    assert redact(text) == ", ".join(["[email]", "[phone]", "[ip]", "[card]"] * 50)


@pytest.mark.parametrize(
    ("letters", "length", "least"),
    [
        (string.ascii_letters + string.digits, 32, 0.95),
        (string.ascii_letters + string.digits + "+/", 40, 0.98),
        (string.ascii_lowercase + string.digits, 40, 0.8),
        ("0123456789abcdef", 32, 1.0),
    ],
)
def test_random_keys_are_told_from_names(letters: str, length: int, least: float) -> None:
    draw = random.Random(0)
    keys = ["".join(draw.choices(letters, k=length)) for _ in range(400)]
    assert sum(map(is_key, keys)) >= least * len(keys)
    names = ("getAttributeFromElementById2", "a_long_name_of_a_variable_2", "x" * 40, "9" * 40)
    assert not any(map(is_key, names))


# Where a pattern could start anew at every character, or backtrack, this would take hours.
@pytest.mark.timeout(120)
@pytest.mark.parametrize("atom", ["a", "a.", "a@", "A1", "::", "-----BEGIN PRIVATE KEY-----", "1."])
def test_a_megabyte_of_anything_takes_linear_time(atom: str) -> None:
    redact(atom * (1_000_000 // len(atom)))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from([*TAKEN, *STAYS])).map(" ".join))
def test_no_text_breaks_it(text: str) -> None:
    assert isinstance(redact(text), str)
