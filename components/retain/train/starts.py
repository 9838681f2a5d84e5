"""How a LoRA starts: at nothing, or from the base's or the data's own directions."""

import warnings
from typing import Any

from retain.train.batches import collate, to_device
from retain.train.rows import Row

DATA_ROWS = 64  # rows that eva and corda look at


def adapt(model: Any, settings: Any, init: str, rows: list[Row], batch_rows: int) -> Any:
    """A peft model whose forward is still the base's; for pissa, olora and corda the base's weights are lowered by what the adapter starts with."""
    from peft import EvaConfig, get_peft_model

    if init == "corda":
        _look_for_corda(model, settings, rows)
    settings.init_lora_weights = True if init == "default" else init
    settings.eva_config = EvaConfig() if init == "eva" else None
    with warnings.catch_warnings():  # a head that is trained whole is meant to part from the embedding
        warnings.filterwarnings("ignore", message=".*a tied layer is part of the adapter.*")
        adapted = get_peft_model(model, settings, autocast_adapter_dtype=False, low_cpu_mem_usage=init == "eva")
    if init == "eva":
        from peft.tuners.lora.eva import initialize_lora_eva_weights

        initialize_lora_eva_weights(adapted, _batches(rows, batch_rows), show_progress_bar=False)
    return adapted


def _look_for_corda(model: Any, settings: Any, rows: list[Row]) -> None:
    """Covariances of the layers' inputs on training rows (instruction-previewed mode)."""
    import torch
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    settings.init_lora_weights, settings.corda_config = "corda", CordaConfig(corda_method="ipm")

    @torch.no_grad()
    def run_model() -> None:
        for batch in _batches(rows, 1):  # peft's hook takes one row at a time
            model(**to_device(batch, model.device))

    preprocess_corda(model, settings, run_model=run_model)


def _batches(rows: list[Row], batch_rows: int) -> list[dict[str, Any]]:
    """Padded batches with a mask, as peft wants them."""
    import torch

    batches = []
    for at in range(0, min(len(rows), DATA_ROWS), batch_rows):
        group = rows[at : at + batch_rows]
        ids = collate(group, padded=True, pad=0)["input_ids"]
        lengths = torch.tensor([len(row.input_ids) for row in group])
        batches.append(
            {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()}
        )
    return batches
