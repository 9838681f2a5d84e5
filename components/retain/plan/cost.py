"""Hours and money: from FLOP before anything runs, from measured tokens per second after a short probe."""

from collections.abc import Mapping
from dataclasses import dataclass

from retain.errors import ConfigError
from retain.plan.shapes import ModelShape

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """bf16_tflops: dense, from the vendor's data sheet. memory: bytes. price: USD per hour, an assumption to be replaced."""

    bf16_tflops: float
    memory: int
    price_per_hour: float


DEVICES: Mapping[str, Device] = {
    "h200": Device(989, 141 * 10**9, 4.0), "h100": Device(989, 80 * 10**9, 3.0), "a100-80": Device(312, 80 * 10**9, 1.9), "a100-40": Device(312, 40 * 10**9, 1.4),
    "l40s": Device(362, 48 * 10**9, 1.1), "a10g": Device(70, 24 * 10**9, 1.0), "l4": Device(121, 24 * 10**9, 0.8), "t4": Device(65, 16 * 10**9, 0.5),
    "cpu": Device(0.5, 16 * GIB, 0.1),
}  # fmt: skip
# FLOP per parameter and token: forward 2, backward through the layers 2, gradients of the weights 2; checkpointing adds a forward.
FLOP = {"lora": 4, "qlora": 4, "full": 6}


@dataclass(frozen=True)
class Cost:
    """seconds of the training proper, hours of all devices together, USD; source: what the rate comes from."""

    tokens: int
    tokens_per_second: float
    seconds: float
    device_hours: float
    price: float
    source: str


def device(name: str) -> Device:
    if name not in DEVICES:
        raise ConfigError("no such device in the table", where="plan.device", got=name, expected=", ".join(DEVICES), fix="take the nearest one and set plan.price_per_hour")  # fmt: skip
    return DEVICES[name]


def flop_per_token(shape: ModelShape, method: str, *, row_tokens: int, checkpointing: bool) -> float:
    """Matrix products of the layers and attention (12·layers·hidden·length·½ for causal rows) per trained token."""
    body = (
        shape.parameters - shape.embedding_parameters + shape.vocab * shape.hidden // 2
    )  # the head, on supervised tokens
    passes = FLOP[method] + (2 if checkpointing else 0)
    return passes * body + passes * shape.layers * shape.hidden * row_tokens


def cost(tokens: int, tokens_per_second: float, *, devices: int, price_per_hour: float, source: str) -> Cost:
    """Time and money for ``tokens`` trained tokens (epochs counted) at a rate of all devices together."""
    seconds = tokens / max(tokens_per_second, 1e-9)
    hours = seconds * devices / 3600
    return Cost(tokens, tokens_per_second, seconds, hours, hours * price_per_hour, source)


def expected_rate(shape: ModelShape, method: str, where: Device, *, devices: int, utilisation: float, row_tokens: int, checkpointing: bool) -> float:  # fmt: skip
    """Tokens per second of all devices, from FLOP and a share of the device's peak."""
    flop = flop_per_token(shape, method, row_tokens=row_tokens, checkpointing=checkpointing)
    return where.bf16_tflops * 1e12 * utilisation * devices / flop


def break_even_queries(training_price: float, *, prompt_tokens_saved: int, price_per_million_tokens: float) -> float:
    """Queries after which a training has paid for itself by a shorter prompt; inf where nothing is saved."""
    saved = prompt_tokens_saved * price_per_million_tokens / 1e6
    return training_price / saved if saved > 0 else float("inf")
