"""Personal data by pattern and checksum, without a language model: names and postal addresses are not found.

| kind        | told by                                                                                             |
|-------------|-----------------------------------------------------------------------------------------------------|
| email       | RFC 5322 dot-atoms at a domain; example domains (RFC 2606) do not count                             |
| phone       | +CC numbers, North American and bracketed shapes; other digits only beside a word such as tel or call |
| card        | 12 to 19 digits with a known first digit and the Luhn check (ISO/IEC 7812-1)                        |
| iban        | ISO 13616 with its mod-97 check                                                                     |
| national_id | US SSN, UK NINO, Canadian SIN, Spanish DNI/NIE, Italian codice fiscale, Brazilian CPF, Polish PESEL, Indian Aadhaar grouping, each with its check where it has one |
| ip          | public IPv4 and IPv6 addresses                                                                      |
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Characters [start, end) of a text and what they are."""

    kind: str
    start: int
    end: int


EMAIL = re.compile(
    r"(?<![\w.+-])[\w!#$%&'*+/=?^`{|}~.-]{1,64}@(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+[a-zA-Z]{2,24}(?![\w-])"
)
RESERVED = re.compile(
    r"@(?:.*\.)?(?:example\.(?:com|org|net)|[^@]*\.(?:example|invalid|test|localhost))\Z", re.IGNORECASE
)
CARD = re.compile(r"(?<![\w.,-])(?:[2-6]\d{3}|1800)(?:[ -]?\d){8,15}(?![\w-]|[.,]\d)")
IBAN = re.compile(r"(?<![A-Za-z0-9])(?:[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}|[a-z]{2}\d{2}[a-z0-9]{11,30})(?![A-Za-z0-9])")
SSN = re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\d-])")
NINO = re.compile(
    r"(?<![A-Za-z0-9])(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D](?![A-Za-z0-9])"
)
SIN = re.compile(r"(?i)\b(?:SIN|social insurance)\b\D{0,20}(\d{3}[- ]?\d{3}[- ]?\d{3})(?![\d-])")
DNI = re.compile(r"(?<![A-Za-z0-9])([XYZ]?\d{7,8})-?([A-Z])(?![A-Za-z0-9])")
FISCALE = re.compile(r"(?<![A-Za-z0-9])[A-Z]{6}\d{2}[A-EHLMPR-T]\d{2}[A-Z]\d{3}[A-Z](?![A-Za-z0-9])")
CPF = re.compile(r"(?<!\d)\d{3}\.\d{3}\.\d{3}-\d{2}(?!\d)")
PESEL = re.compile(r"(?i)\bpesel\D{0,12}(\d{11})(?!\d)")
AADHAAR = re.compile(r"(?i)\baadhaar\D{0,20}\d{4}[ -]?\d{4}[ -]?\d{4}(?!\d)")
IP = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{0,4}){3,7})(?![\w:]|\.\d)")
# A phone number without a plus must have the separators of one, or a word before it: bare digits are mostly something else.
PHONE = re.compile(
    r"(?<![\w.,/$€£-])(?:\+|00)[1-9][\d ().-]{6,18}\d(?:\s?(?:x|ext\.?)\s?\d{1,6})?(?![\w-])"
    r"|(?<![\w.,/$€£+-])(?:1[-. ])?(?:\(\d{3}\)[-. ]?|\d{3}[-. ])\d{3}[-. ]\d{4}(?:\s?(?:x|ext\.?)\s?\d{1,6})?(?![\w-])"
    r"|(?<![\w.,/$€£+-])\(\d{2,5}\)[ -]?\d{2,4}(?:[ -]?\d{2,4}){1,3}(?![\w-])"
    r"|(?i:\b(?:phone|tel|telephone|mobile|cell|fax|call|calling|ring|dial|text|sms|messages?|reach|answering|my number)\b"
    r"(?:\s+(?:me|us|him|her|them|is|at|on|to|no|number|up)\b)*[.:#\s]*)(?P<said>\(?\d[\d ().-]{5,16}\d(?:\s?(?:x|ext\.?)\s?\d{1,6})?)(?![\w-]|\.\d)"
    r"|(?<![\w.,/$€£+-])(?P<kept>\(?\d[\d ().-]{5,16}\d)(?=[ -]?(?i:office|fax|mobile|cell|home|work)\b)"
)
FEWEST_DIGITS = 6  # of everything but addresses; a text with fewer is not searched


def find(text: str, kinds: Collection[str]) -> list[Finding]:
    """All personal data of these kinds, in order, without overlaps (the surer kind wins)."""
    findings: list[Finding] = []
    numbers = sum(map(text.count, "0123456789")) >= FEWEST_DIGITS
    for kind in ("email", "iban", "card", "national_id", "ip", "phone"):
        if kind in kinds and (numbers or kind in ("email", "ip")):
            taken = [(f.start, f.end) for f in findings]
            findings += [f for f in FINDERS[kind](text) if all(f.end <= a or b <= f.start for a, b in taken)]
    return sorted(findings, key=lambda f: f.start)


def _emails(text: str) -> Iterator[Finding]:
    if "@" in text:
        yield from (Finding("email", *m.span()) for m in EMAIL.finditer(text) if not RESERVED.search(m.group()))


def _cards(text: str) -> Iterator[Finding]:
    for match in CARD.finditer(text):
        if luhn(match.group()) and len(set(_digits(match.group()))) > 1:
            yield Finding("card", *match.span())


def _ibans(text: str) -> Iterator[Finding]:
    for match in IBAN.finditer(text):
        for end in range(match.end(), match.start() + 14, -1):  # words in capitals may follow: the longest that checks
            if text[end - 1] != " " and mod97(text[match.start() : end]):
                yield Finding("iban", match.start(), end)
                break


def _national_ids(text: str) -> Iterator[Finding]:
    for pattern, check in NATIONAL:
        yield from (Finding("national_id", *m.span()) for m in pattern.finditer(text) if check(m))


def _ips(text: str) -> Iterator[Finding]:
    for match in IP.finditer(text):
        try:
            address = ipaddress.ip_address(match.group())
        except ValueError:
            continue
        if address.is_global:
            yield Finding("ip", *match.span())


def _phones(text: str) -> Iterator[Finding]:
    for match in PHONE.finditer(text):
        start, end = next((match.span(group) for group in ("said", "kept") if match.group(group)), match.span())
        number = text[start:end]
        if 7 <= len(_digits(re.sub(r"(?:x|ext).*", "", number))) <= 15 and not _is_date(number):
            yield Finding("phone", start, end)


def _is_date(text: str) -> bool:
    return bool(
        re.fullmatch(
            r"(?:19|20)\d\d[-. ]\d{1,2}[-. ]\d{1,2}|\d{1,2}[-. ]\d{1,2}[-. ](?:19|20)\d\d|(?:19|20)\d\d ?[-–] ?(?:19|20)\d\d",
            text.strip(),
        )
    )


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def luhn(text: str) -> bool:
    """The check digit of card numbers and Canadian SINs (ISO/IEC 7812-1, annex B)."""
    digits = [int(c) for c in _digits(text)][::-1]
    return (sum(digits[::2]) + sum(sum(divmod(2 * d, 10)) for d in digits[1::2])) % 10 == 0


def mod97(text: str) -> bool:
    """The check of an IBAN (ISO 13616, ISO/IEC 7064 mod 97-10)."""
    compact = text.replace(" ", "")
    return 15 <= len(compact) <= 34 and int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _dni(match: re.Match[str]) -> bool:
    number = match.group(1).replace("X", "0").replace("Y", "1").replace("Z", "2")
    return len(number) == 8 and "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == match.group(2)


def _cpf(match: re.Match[str]) -> bool:
    digits = [int(c) for c in _digits(match.group())]
    checks = [sum(d * w for d, w in zip(digits[:n], range(n + 1, 1, -1), strict=True)) * 10 % 11 % 10 for n in (9, 10)]
    return checks == digits[9:] and len(set(digits)) > 1


def _pesel(match: re.Match[str]) -> bool:
    digits = [int(c) for c in match.group(1)]
    return sum(d * w for d, w in zip(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1), strict=True)) % 10 == 0


Check = Callable[[re.Match[str]], bool]
NATIONAL: tuple[tuple[re.Pattern[str], Check], ...] = (
    (SSN, lambda m: True), (NINO, lambda m: True), (SIN, lambda m: luhn(m.group(1))), (DNI, _dni), (FISCALE, lambda m: True),
    (CPF, _cpf), (PESEL, _pesel), (AADHAAR, lambda m: True),
)  # fmt: skip
FINDERS: dict[str, Callable[[str], Iterator[Finding]]] = {
    "email": _emails, "iban": _ibans, "card": _cards, "national_id": _national_ids, "ip": _ips, "phone": _phones,
}  # fmt: skip
