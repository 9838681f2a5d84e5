"""What must not be learned or shown: personal data and secrets of a sample, and the mask for whatever is shown."""

from collections import Counter

from retain.validate import credentials, pii
from retain.validate.config import ValidateConfig
from retain.validate.sample import Sample

ALL_KINDS = ("email", "phone", "card", "iban", "national_id", "ip")


def check(sample: Sample, config: ValidateConfig) -> None:
    """Note kinds and numbers, never the values."""
    if config.secrets != "off" and (found := credentials.find(sample.text)):
        sample.note("secrets", f"{len(found)} found", len(found))
    if config.pii != "off" and (found := pii.find(sample.text, config.pii_kinds)):
        kinds = Counter(f.kind for f in found)
        sample.note("pii", ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()), len(found))


def mask(text: str) -> str:
    """The text with every secret and personal datum replaced by its kind, whatever the checks of this run are."""
    for find in (credentials.find, lambda t: pii.find(t, ALL_KINDS)):
        for finding in reversed(find(text)):
            text = f"{text[: finding.start]}[{finding.kind}]{text[finding.end :]}"
    return text
