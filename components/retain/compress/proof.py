"""What a compression did: bytes, zeros, and how far the answers drifted on rows that the tuned model wrote itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain import models
from retain.compress.config import CompressConfig
from retain.errors import EnvironmentFault, IntegrityError

if TYPE_CHECKING:
    import torch


def drift(config: CompressConfig, model_dir: Path, out: Path) -> dict[str, Any]:
    """The compressed model beside the one it was made of, on the same tokens, in fp32 where the weights are not packed.

    kl_nats: mean Kullback–Leibler divergence a token, original to compressed; same_top_percent: positions with the same
    likeliest token; rms_difference: of the logits, in their standard deviations. IntegrityError: a logit is not finite.
    """
    import torch

    device = models.pick_device(config.device)
    rows, before = _original(config, model_dir, device)
    after = _answers(out, device, rows)
    if not torch.isfinite(after).all():
        raise IntegrityError("the compressed model's logits are not finite", where=str(out), fix="use a milder method")
    one, two = before.log_softmax(-1), after.log_softmax(-1)
    kl = (one.exp() * (one - two)).sum(-1).mean()
    same = (one.argmax(-1) == two.argmax(-1)).float().mean()
    rms = ((after - before) / before.std()).square().mean().sqrt()
    return {
        "rows": config.probe_rows, "tokens": config.probe_tokens, "kl_nats": max(0.0, float(kl)),
        "same_top_percent": 100 * float(same), "rms_difference": float(rms),
    }  # fmt: skip


def _answers(out: Path, device: str, rows: "torch.Tensor") -> "torch.Tensor":
    """The compressed model's logits; EnvironmentFault where this machine cannot compute with its packed weights (bitsandbytes
    on a CPU: matrices narrower than a block of 64)."""
    import torch

    try:
        return _logits(_load(out, device), rows)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise EnvironmentFault("this machine cannot compute with the compressed weights", where=str(out), got=str(error).partition("\n")[0][:200], fix="compress where a GPU is, or by another method") from error  # fmt: skip


def _load(folder: Path, device: str) -> Any:
    return models.load_model(folder, dtype="fp32", device=device, seq2seq=models.is_encoder_decoder(folder))


def _original(config: CompressConfig, model_dir: Path, device: str) -> "tuple[torch.Tensor, torch.Tensor]":
    """(probe rows, the original's logits on them); the original is let go before the other one is opened."""
    model = _load(model_dir, device)
    rows = _rows(config, model)
    return rows, _logits(model, rows)


def _rows(config: CompressConfig, model: Any) -> "torch.Tensor":
    """Seeded samples (rows, tokens) of the model's own; an encoder–decoder gets random tokens."""
    import torch

    size = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(config.seed)
    rows = torch.randint(0, size, (config.probe_rows, 1), generator=generator)
    if model.config.is_encoder_decoder:
        return torch.randint(0, size, (config.probe_rows, config.probe_tokens), generator=generator)
    with torch.inference_mode():
        while rows.shape[1] < config.probe_tokens:
            last = model(input_ids=rows.to(model.device)).logits[:, -1].float().cpu()
            rows = torch.cat([rows, torch.multinomial(last.softmax(-1), 1, generator=generator)], dim=1)
    return rows


def _logits(model: Any, rows: "torch.Tensor") -> "torch.Tensor":
    """fp32 logits (rows, tokens, vocabulary) on the processor."""
    import torch

    ids = rows.to(model.device)
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False, **more).logits.float().cpu()
