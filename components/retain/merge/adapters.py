"""From an adapter folder to the changes of the base's tensors; what cannot be merged exactly is refused with the reason."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain import digest, models
from retain.artifacts import read_json
from retain.errors import ConfigError, IntegrityError
from retain.merge.deltas import Delta, Dora, LowRank, Replace, Rotate, Scale, Shift, Subspace, Tokens, rotations
from retain.merge.tensors import Folder

if TYPE_CHECKING:
    import torch

# Why a peft method cannot become weights, where it cannot.
REFUSED = {
    **dict.fromkeys(("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "ADAPTION_PROMPT"), "it adds trained inputs, not weights: serve it attached"),
    "BOTTLENECK": "its layers are not linear: serve it attached",
    "PROBE": "it is a head over classes beside the untouched base: load it with retain.train.probe",
}  # fmt: skip
MERGED = ("LORA", "IA3", "OFT", "OSF")
# Starts that change the base itself: their A and B mean nothing on the original weights.
MOVES_THE_BASE = ("pissa", "olora", "corda", "loftq")
NOT_LOW_RANK = ("alora_invocation_tokens", "layer_replication", "target_parameters", "use_bdlora", "use_qalora", "arrow_config", "monteclora_config", "kasa_config")  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """changes: base tensor → ΔW. training: retain.json (empty for an adapter from elsewhere). tied: both ends of a tied
    embedding were trained together. digest: of its weight files."""

    path: Path
    changes: Mapping[str, Delta]
    training: Mapping[str, Any]
    digest: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def content_of(path: Path) -> str:
    """Digest of an adapter's weight files."""
    return digest.of_manifest({p.name: digest.of_file(p).removeprefix("sha256:") for p in sorted(path.glob("*.safetensors")) if p.is_file()})  # fmt: skip


def read(path: Path, base: Folder) -> Adapter:
    """An adapter (peft's layout) or changed weights (Hugging Face's), checked against its own digest."""
    if not path.is_dir():
        raise ConfigError(
            "there is no such adapter", got=path, expected="a folder written by train, or by peft", fix="check the path"
        )
    training = read_json(path / "retain.json", schema="retain.adapter/1") if (path / "retain.json").is_file() else {}
    weights, got = Folder(path), content_of(path)
    if training.get("adapter_digest", got) != got:
        raise IntegrityError("the adapter's weights were changed after training", where=str(path), got=got, expected=training["adapter_digest"], fix="train again")  # fmt: skip
    if not (path / "adapter_config.json").is_file():
        whole = {_tensor(name, base, path): Replace(weights, name) for name in weights.place}
        return Adapter(path, whole, training, got, "weights")
    settings = models.settings_of(path, "adapter_config.json")
    _check(settings, path)
    _check_task(settings, path, base.path)
    try:
        changes = _Reader(settings, weights, base).changes()
    # Foreign settings and tensors can be wrong in more ways than can be named; each of them means this.
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, re.error) as error:
        raise IntegrityError("an adapter's settings and weights do not fit together", where=str(path), got=f"{type(error).__name__}: {error}"[:300], fix="train or copy it again") from error  # fmt: skip
    return Adapter(path, changes, training, got, "peft", settings)


def _check_task(settings: Mapping[str, Any], path: Path, base: Path) -> None:
    """A language model has no head over classes, and an encoder–decoder's adapter does not fit a decoder."""
    task = settings.get("task_type") or ""
    fits = "SEQ_2_SEQ_LM" if models.is_encoder_decoder(base) else "CAUSAL_LM"
    if task not in ("", "FEATURE_EXTRACTION", fits):
        raise ConfigError("this adapter was trained for another task than its base's", where=str(path), got=f"task_type: {task}", expected=fits, fix="merge it into the base it was trained on; an adapter with a head over classes is served attached")  # fmt: skip


def _check(settings: Mapping[str, Any], path: Path) -> None:
    kind = settings.get("peft_type")
    if kind not in MERGED:
        raise ConfigError(f"{kind} cannot be merged", where=str(path), got=REFUSED.get(str(kind), f"only {', '.join(MERGED)} are known as fixed changes of weights"), fix="serve the adapter attached to its base, or train with method: lora")  # fmt: skip
    if settings.get("coft"):
        raise ConfigError("constrained OFT is not merged", where=str(path), got="coft", fix="serve it attached to its base, or train without coft")  # fmt: skip
    start = str(settings.get("init_lora_weights", True)).lower()
    if start.startswith(MOVES_THE_BASE):
        raise ConfigError(f"this adapter starts from {start}, which moves the base", where=str(path), fix="save it with peft's path_initial_model_for_weight_conversion, which makes it a plain LoRA")  # fmt: skip
    odd = [name for name in NOT_LOW_RANK if settings.get(name)]
    if odd:
        raise ConfigError(f"an adapter with {', '.join(odd)} is not one fixed change of the weights", where=str(path), fix="serve it attached to its base")  # fmt: skip


class _Reader:
    """peft's names and settings → changes. Patterns match as in peft.utils.other.get_pattern_key (0.21)."""

    def __init__(self, settings: Mapping[str, Any], weights: Folder, base: Folder) -> None:
        self.settings, self.weights, self.base = settings, weights, base
        self.names = {name.removeprefix("base_model.model."): name for name in weights.place}
        self.used: set[str] = set()

    def changes(self) -> dict[str, Delta]:
        found: dict[str, Delta] = {}
        for plain in self.names:
            if plain.endswith(".lora_A.weight"):
                self._linear(plain.removesuffix(".lora_A.weight"), found)
            elif plain.endswith(".lora_embedding_A"):
                self._embedding(plain.removesuffix(".lora_embedding_A"), found)
            elif plain.endswith(".ia3_l"):
                self._scaled(plain, found)
            elif plain.endswith(".oft_R.weight"):
                self._rotated(plain, found)
            elif plain.endswith(".osf_svd_params.U_low"):
                self._subspace(plain.removesuffix(".osf_svd_params.U_low"), found)
            elif plain.endswith(".token_adapter.trainable_tokens_delta"):
                self._tokens(plain, found)
        for plain in [name for name in self.names if name not in self.used]:
            if ".original_module." in plain:
                continue  # what a module trained whole was before
            if plain.endswith(".base_layer.weight"):
                self._same_base(plain)
                continue
            if re.search(r"lora_|trainable_tokens|ia3_l|oft_|osf_svd", plain):
                raise ConfigError("this part of the adapter is not known, so the merge would be wrong", where=str(self.weights.path), got=plain)  # fmt: skip
            target = _tensor(
                re.sub(r"\.(modules_to_save(\.default)?|base_layer)\.", ".", plain), self.base, self.weights.path
            )
            found[target] = Replace(self.weights, self.names[plain])
        return found

    def _take(self, plain: str) -> "torch.Tensor | None":
        if plain not in self.names:
            return None
        self.used.add(plain)
        return self.weights.tensor(self.names[plain])

    def _need(self, plain: str) -> "torch.Tensor":
        found = self._take(plain)
        if found is None:
            raise IntegrityError("an adapter lacks one half of a pair", where=str(self.weights.path), expected=plain, fix="train or copy it again")  # fmt: skip
        return found

    def _scale(self, module: str, rank: int) -> float:
        alpha = float(self._setting("alpha_pattern", "lora_alpha", module))
        scale = alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)
        if not math.isfinite(scale):
            raise ValueError(f"a scale of {scale} for {module}")
        return scale

    def _setting(self, patterns: str, common: str, module: str) -> Any:
        """What the first pattern that finds ``module`` says, else what holds for all layers."""
        own = self.settings.get(patterns) or {}
        key = next((key for key in own if re.match(rf"(.*\.)?({key})$", module)), None)
        return own[key] if key is not None else self.settings[common]

    def _check_rank(self, module: str, a: "torch.Tensor", b: "torch.Tensor") -> None:
        """The scale rests on the rank, so settings and both halves must tell the same one."""
        told = self._setting("rank_pattern", "r", module)
        if not a.shape[0] == b.shape[1] == told:
            raise ValueError(f"ranks {a.shape[0]} and {b.shape[1]} of {module}, {told} by its settings")

    def _linear(self, module: str, found: dict[str, Delta]) -> None:
        a, b = self._need(f"{module}.lora_A.weight"), self._need(f"{module}.lora_B.weight")
        if a.ndim != 2:
            raise ConfigError("convolutions are not merged", where=module, got=f"a LoRA of shape {tuple(a.shape)}")
        self._check_rank(module, a, b)
        target = _tensor(f"{module}.weight", self.base, self.weights.path)
        transposed = bool(self.settings.get("fan_in_fan_out"))
        delta = LowRank(a, b, self._scale(module, a.shape[0]), transposed)
        _fits(self.base, target, (a.shape[1], b.shape[0]) if transposed else (b.shape[0], a.shape[1]), module)
        found[target] = self._with_magnitude(module, delta)
        if (bias := self._take(f"{module}.lora_B.bias")) is not None:
            name = _tensor(f"{module}.bias", self.base, self.weights.path)
            if bias.shape != self.base.spec(name).shape:
                raise _other_shape(name, tuple(bias.shape), self.base.spec(name).shape)
            found[name] = Shift(bias * delta.scale)

    def _embedding(self, module: str, found: dict[str, Delta]) -> None:
        a, b = self._need(f"{module}.lora_embedding_A"), self._need(f"{module}.lora_embedding_B")
        self._check_rank(module, a, b)
        target = _tensor(f"{module}.weight", self.base, self.weights.path)
        _fits(self.base, target, (a.shape[1], b.shape[0]), module)
        found[target] = self._with_magnitude(module, LowRank(a, b, self._scale(module, a.shape[0]), transposed=True))

    def _with_magnitude(self, module: str, delta: LowRank) -> Delta:
        magnitude = self._take(f"{module}.lora_magnitude_vector")
        if magnitude is None:
            magnitude = self._take(f"{module}.lora_magnitude_vector.weight")
        if magnitude is not None and magnitude.numel() != delta.b.shape[0]:
            raise _other_shape(module, magnitude.numel(), delta.b.shape[0])
        return delta if magnitude is None else Dora(delta, magnitude.reshape(-1), delta.transposed)

    def _same_base(self, plain: str) -> None:
        """peft keeps a copy of an embedding beside its low-rank change; only a longer one would mean something."""
        target = _tensor(plain.replace(".base_layer.", "."), self.base, self.weights.path)
        ours, theirs = self.base.spec(target).shape if target in self.base.place else (), self.weights.spec(self.names[plain]).shape  # fmt: skip
        if ours and ours != theirs:
            raise ConfigError("new words together with a low-rank change of the embedding are not merged", where=target, got=theirs, expected=ours, fix="train the embedding whole: modules_to_save")  # fmt: skip

    def _scaled(self, plain: str, found: dict[str, Delta]) -> None:
        """peft keeps (1, in) for a module whose input is scaled, (out, 1) for one whose output is, its bias included."""
        factors, module = self._need(plain), plain.removesuffix(".ia3_l")
        target = _tensor(f"{module}.weight", self.base, self.weights.path)
        of_output = factors.shape[1] == 1
        by_row = of_output != bool(self.settings.get("fan_in_fan_out"))
        side = self.base.spec(target).shape[0 if by_row else 1]
        if side != factors.numel():
            raise _other_shape(module, factors.numel(), side)
        found[target] = Scale(factors.flatten(), by_row)
        bias = f"{target.removesuffix('.weight')}.bias"
        if of_output and bias in self.base.place:
            found[bias] = Scale(factors.flatten(), by_row=True)

    def _rotated(self, plain: str, found: dict[str, Delta]) -> None:
        module = plain.removesuffix(".oft_R.weight")
        target = _tensor(f"{module}.weight", self.base, self.weights.path)
        terms = self.settings.get("num_cayley_neumann_terms", 5) if self.settings.get("use_cayley_neumann", True) else 0
        blocks, width = rotations(self._need(plain), terms), self.base.spec(target).shape[1]
        if self.settings.get("block_share"):
            blocks = blocks.expand(width // blocks.shape[1], -1, -1)
        if blocks.shape[0] * blocks.shape[1] != width:
            raise _other_shape(module, blocks.shape[0] * blocks.shape[1], width)
        found[target] = Rotate(blocks)

    def _subspace(self, module: str, found: dict[str, Delta]) -> None:
        u, s, v = (self._need(f"{module}.osf_svd_params.{name}") for name in ("U_low", "S_low", "V_low"))
        target = _tensor(f"{module}.weight", self.base, self.weights.path)
        _fits(self.base, target, (u.shape[0], v.shape[1]), module)
        found[target] = Subspace(u, s, v)

    def _tokens(self, plain: str, found: dict[str, Delta]) -> None:
        values = self._need(plain)
        module = plain.removesuffix(".token_adapter.trainable_tokens_delta")
        chosen = self.settings.get("trainable_token_indices") or []
        if isinstance(chosen, dict):
            chosen = next((ids for name, ids in chosen.items() if module.endswith(name)), [])
        target = _tensor(f"{module}.weight", self.base, self.weights.path)
        rows, width = self.base.spec(target).shape
        if values.shape != (len(chosen), width) or not all(0 <= row < rows for row in chosen):
            raise _other_shape(
                module, f"{tuple(values.shape)} for rows {chosen}"[:100], f"rows of {width} below {rows}"
            )
        found[target] = Tokens(tuple(chosen), values)


def _fits(base: Folder, target: str, shape: tuple[int, int], module: str) -> None:
    name = target if target in base.place else embedding_of(base)
    if name and base.spec(name).shape != shape:
        raise _other_shape(module, shape, base.spec(name).shape)


def _other_shape(module: str, got: object, expected: object) -> IntegrityError:
    return IntegrityError("this adapter is for a base of another shape", where=module, got=got, expected=expected, fix="merge it into the base it was trained on")  # fmt: skip


def embedding_of(base: Folder) -> str:
    return next((name for name in base.place if name.endswith(("embed_tokens.weight", "wte.weight", "shared.weight"))), "")  # fmt: skip


def _tensor(name: str, base: Folder, path: Path) -> str:
    """The base's name of an adapter's tensor: the same, or the same but for the model's prefix (``model.``, ``transformer.``).

    ``lm_head.weight`` of a base that ties it to the embedding is kept as it is: the merge writes it out.
    """
    tail = name.partition(".")[2]
    fits = [known for known in (name, tail) if known in base.place] or [known for known in base.place if known.endswith(f".{name}") and known.count(".") == name.count(".") + 1]  # fmt: skip
    if fits:
        return fits[0]
    if name in {"lm_head.weight", "lm_head.bias"}:
        return name
    near = ", ".join(sorted(base.place)[:3])
    raise IntegrityError("the adapter changes a tensor that the base does not have", where=str(path), got=name, expected=f"one of {near} …", fix="merge it into the base it was trained on")  # fmt: skip
