"""Secrets in text: the patterns of detect-secrets, and newer kinds of keys that it does not know.

Words such as `password = …` count only with a value that looks made up by a machine: letters and digits, not a placeholder.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Iterator

from retain.validate.pii import Finding

PLUGINS = (
    "aws.AWSKeyDetector", "azure_storage_key.AzureStorageKeyDetector", "basic_auth.BasicAuthDetector", "discord.DiscordBotTokenDetector",
    "github_token.GitHubTokenDetector", "gitlab_token.GitLabTokenDetector", "jwt.JwtTokenDetector", "mailchimp.MailchimpDetector",
    "npm.NpmDetector", "openai.OpenAIDetector", "private_key.PrivateKeyDetector", "pypi_token.PypiTokenDetector", "sendgrid.SendGridDetector",
    "slack.SlackDetector", "square_oauth.SquareOAuthDetector", "stripe.StripeDetector", "telegram_token.TelegramBotTokenDetector", "twilio.TwilioKeyDetector",
)  # fmt: skip
NEWER = (
    r"\bgithub_pat_[A-Za-z0-9_]{60,}", r"\bsk-(?:proj|ant|svcacct)-[A-Za-z0-9_-]{20,}", r"\bhf_[A-Za-z]{30,}", r"\bAIza[0-9A-Za-z_-]{35}",
    r"\bya29\.[0-9A-Za-z_-]{20,}", r"-----BEGIN [A-Z ]*PRIVATE KEY-----", r"(?i)\bbearer\s+[A-Za-z0-9._~+/-]{20,}=*", r"\bdapi[0-9a-f]{32}\b",
    r"(?i)aws_?secret_?(?:access_?)?key\W{1,8}[A-Za-z0-9/+]{40}",
)  # fmt: skip
SHORTEST = 16  # characters without a space: nothing above matches a text that has no such word, which spares most rows thirty searches
HEADS = ("PRIVATE KEY", "PuTTY-User-Key")
WORDS = ("pass", "pwd", "secret", "key", "token")
SAID = re.compile(
    r"(?i)\b(?:pass(?:word|wd|phrase)?|pwd|secret|api[_ -]?key|(?:access|auth|api)[_ -]?token)\b[\"']?(?: is|\s*[:=])\s*[\"']?([^\s\"'<>{}()\[\],;]{8,})"
)
PLACEHOLDER = re.compile(
    r"(?i)your|example|sample|placeholder|change|dummy|xxx|\*\*\*|\.\.\.|1234|abcd|password|secret|qwert|https?:|^\$|\$[{(]"
)
FEWEST_BITS = 2.75  # Shannon entropy a character of a value that was not chosen to be read


@functools.cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    from importlib import import_module

    found: list[re.Pattern[str]] = []
    for name in PLUGINS:
        module, _, plugin = name.partition(".")
        found += getattr(import_module(f"detect_secrets.plugins.{module}"), plugin).denylist
    return (*found, *map(re.compile, NEWER))


def find(text: str) -> list[Finding]:
    """All secrets of a text, in order, without overlaps."""
    findings: list[Finding] = []
    for finding in sorted([*_by_pattern(text), *_by_word(text)], key=lambda f: (f.start, -f.end)):
        if not findings or finding.start >= findings[-1].end:
            findings.append(finding)
    return findings


def _by_pattern(text: str) -> Iterator[Finding]:
    if max(map(len, text.split()), default=0) >= SHORTEST or any(head in text for head in HEADS):
        for pattern in _patterns():
            yield from (
                Finding("secret", *match.span()) for match in pattern.finditer(text) if not _shown_off(match.group())
            )


def _shown_off(match: str) -> bool:
    """``https://user:password@host`` and the like in a text that explains."""
    return match.startswith("://") and bool(
        PLACEHOLDER.search(match) or re.search(r"(?i):(?:pass|pwd|pw|user|token)\w*@", match)
    )


def _by_word(text: str) -> Iterator[Finding]:
    small = text.lower()
    for match in SAID.finditer(text) if any(word in small for word in WORDS) else ():
        value = match.group(1).rstrip(".!?")
        mixed = re.search(r"\d", value) and re.search(r"[A-Za-z]", value)
        if len(value) >= 8 and mixed and not PLACEHOLDER.search(value) and _bits(value) >= FEWEST_BITS:
            yield Finding("secret", *match.span(1))


def _bits(text: str) -> float:
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())
