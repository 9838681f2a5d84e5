"""A GPU that is none: CPU tensors that say they lie on cuda:0, and an error wherever one meets a tensor that does not.

What lies where is noted by storage: factories and ``.to`` are told their device (a function mode), results take their inputs' (a
dispatch mode). As on a real GPU a tensor of one number, an index, and a copy may come from the other side. No kernel of a GPU runs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
TO = {torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda}
TO_NUMPY = {torch.Tensor.numpy, torch.Tensor.__array__}
DEVICE, IS_CUDA = torch.Tensor.device.__get__, torch.Tensor.is_cuda.__get__  # type: ignore[attr-defined]
COPIES, INDEXES = ("copy_", "_to_copy"), ("index", "index_put", "index_put_", "_index_put_impl_")


class _Places:
    """Which storages lie on the pretended GPU; of what C++ makes by itself (zeros in a backward pass) nothing is known."""

    def __init__(self) -> None:
        self.noted: dict[
            int, tuple[torch.device | None, StorageWeakRef]
        ] = {}  # a weak reference keeps the address from being given out again
        self.making: torch.device | None = None  # the device that the running factory was asked for

    def known(self, tensor: torch.Tensor) -> torch.device | None:
        return self.noted.get(tensor.untyped_storage()._cdata, (CPU,))[0]

    def of(self, tensor: torch.Tensor) -> torch.device:
        return self.known(tensor) or CPU

    def put(self, tensor: torch.Tensor, device: torch.device | None) -> None:
        storage = tensor.untyped_storage()
        self.noted[storage._cdata] = device, StorageWeakRef(storage)


class _Follow(TorchDispatchMode):
    """Results lie where their inputs lie, and inputs in one place."""

    def __init__(self, places: _Places) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, torch.Tensor)]
        asked = given[:1] if name in INDEXES else given
        places = {where for x in asked if (where := self.places.known(x)) is not None and x.dim()}
        if len(places) > 1 and name not in COPIES:
            raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {[(tuple(x.shape), self.places.of(x)) for x in given]}")  # fmt: skip
        known = {x.untyped_storage()._cdata for x in given}
        result = func(*args, **(kwargs or {}))
        everywhere = {self.places.known(x) for x in given}
        where = self.places.making or next((x for x in (CUDA, CPU) if x in everywhere), None)
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in known:
                self.places.put(x, where)
        return result


class _Ask(TorchFunctionMode):
    """Devices are answered and asked for as if there were the GPU."""

    def __init__(self, places: _Places) -> None:
        super().__init__()
        self.places = places

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == DEVICE:
            return self.places.of(args[0])
        if func == IS_CUDA:
            return self.places.of(args[0]).type == "cuda"
        if func in TO_NUMPY and self.places.of(args[0]).type == "cuda":
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if func in TO:
            return self._moved(func, args, kwargs)
        asked = self.places.of(args[0]) if func is torch.Tensor.new_tensor else _device(kwargs.get("device"))
        if asked is None and not any(isinstance(x, torch.Tensor) for x in tree_leaves((args, kwargs))):
            asked = CPU
        if asked is None:
            return func(*args, **kwargs)
        with self._making(asked):
            result = func(*args, **({**kwargs, "device": CPU} if kwargs.get("device") is not None else kwargs))
        for made in tree_leaves(result):  # what is made from numbers passes by the dispatch
            if isinstance(made, torch.Tensor):
                self.places.put(made, asked)
        return result

    def _moved(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensor, rest = args[0], list(args[1:])
        target = {torch.Tensor.cpu: CPU, torch.Tensor.cuda: CUDA}.get(func) or _device(kwargs.pop("device", None))
        for i, value in enumerate(rest):
            if func is torch.Tensor.to and target is None and (found := _device(value)) is not None:
                target, rest[i] = found, None
            elif isinstance(value, torch.Tensor):
                target, rest[i] = self.places.of(value), value.dtype
        plain = [x for x in rest if x is not None and not isinstance(x, bool)]
        dtype = kwargs.get("dtype") or next((x for x in plain if isinstance(x, torch.dtype)), tensor.dtype)
        if target is None or target == self.places.of(tensor):
            return torch.Tensor.to(tensor, dtype)
        with self._making(target):
            return torch.Tensor.to(tensor, dtype, copy=True)

    @contextmanager
    def _making(self, device: torch.device) -> Iterator[None]:
        before, self.places.making = self.places.making, device
        try:
            yield
        finally:
            self.places.making = before


def _device(value: Any) -> torch.device | None:
    """A device of the two that are known here."""
    if isinstance(value, str | torch.device) and str(value) not in ("meta",):
        return CPU if torch.device(value).type == "cpu" else CUDA
    return CUDA if isinstance(value, int) and not isinstance(value, bool) else None


@contextmanager
def gpu() -> Iterator[Callable[[torch.Tensor], torch.device]]:
    """Inside there is the pretended GPU; yields what tells where a tensor lies."""
    places = _Places()
    with _Follow(places), _Ask(places):
        yield places.of
