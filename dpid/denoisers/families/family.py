"""The base class of all families, and the registry that a subclass enters by itself."""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from dpid.denoisers.levels import Discrete, Flow
from dpid.denoisers.modes import PRECISIONS, evaluating
from dpid.denoisers.texts import check_text

if TYPE_CHECKING:
    from dpid.denoisers.fused import FusedNetwork

FAMILIES: dict[str, type[Family]] = {}
# Two calls of one tokenizer or network at once disturb each other; pipelines that share a text encoder share a lock.
_LOCKS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
# Modules whose arithmetic is that of their parameters' type. Quantised layers and others have one of their own.
_KNOWN = ("torch.nn.modules.", "diffusers.", "peft.")


class Family(ABC):
    """How one kind of diffusers pipeline calls its network; nothing of the pipeline is ever changed.

    A subclass is all that a new kind takes. Everything is read from the pipeline when it is needed, so that a part
    which the user has replaced is the one that is used.

    Attributes
    ----------
    pipelines : names of the pipeline's classes
    network : attribute of the pipeline that holds the network
    tokenizers : {attribute of a tokenizer: attribute of its text encoder}
    only_fused : whether there is no other network than the fused one
    """

    pipelines: ClassVar[tuple[str, ...]] = ()
    network: ClassVar[str] = "transformer"
    tokenizers: ClassVar[Mapping[str, str]] = {"tokenizer": "text_encoder"}
    only_fused: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        FAMILIES.update(dict.fromkeys(cls.pipelines, cls))

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.check()

    @classmethod
    def parts(cls) -> tuple[str, ...]:
        """Attributes of the pipeline that must be there."""
        return (cls.network, "vae", "scheduler", *cls.tokenizers, *cls.tokenizers.values())

    # -- what the pipeline has

    @property
    def net(self) -> Any:
        """The network."""
        return getattr(self.pipe, self.network)

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes; with offloading its weights lie elsewhere between calls."""
        device: torch.device = self.pipe._execution_device
        return device

    @property
    def name(self) -> str:
        """What the pipeline was loaded from, else the name of its class."""
        stored = getattr(self.pipe, "name_or_path", "") or self.pipe.config.get("_name_or_path", "")
        return str(stored or type(self.pipe).__name__)

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Held by a thread while the pipeline works for it."""
        shared = next(part for part in self.pipe.components.values() if isinstance(part, nn.Module))
        lock: AbstractContextManager[Any] = _LOCKS.setdefault(shared, threading.RLock())
        return lock

    @property
    def weights(self) -> dict[str, Tensor]:
        """Parameters of the network by name."""
        return {name: p.detach() for name, p in self.net.named_parameters()}

    @property
    def precision(self) -> str:
        """The type of the network's weights."""
        return next((k for k, v in PRECISIONS.items() if v == self.net.dtype), "float32")

    def fixed_precision(self) -> str | None:
        """Why the network computes in its own type alone (quantised, offloaded), or None."""
        for name, module in self.net.named_modules():
            kind = type(module)
            if hasattr(module, "_hf_hook"):
                return "it is offloaded"
            if not kind.__module__.startswith(_KNOWN):
                return f"{name or 'it'} is a {kind.__module__.split('.')[0]} {kind.__name__}"
        for name, p in self.net.named_parameters():
            if not p.is_floating_point() or p.element_size() < 2 or type(p.data) is not Tensor or p.is_meta:
                return f"{name} is stored as {p.dtype}" if type(p.data) is Tensor else f"{name} is quantised"
        return None

    # -- what a family answers

    @abstractmethod
    def levels(self) -> Discrete | Flow:
        """The noise levels that the network was trained at."""

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """{argument: [K,…]} of K texts; an empty one is what the pipeline's own guidance takes for none."""

    @abstractmethod
    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's arguments for latents x [M,C,h,w], times t [M] of the levels, and ``encoded`` [M,…]."""

    # -- what it may answer otherwise

    def check(self) -> None:
        """Raise ``ValueError`` for a pipeline that lacks a part, or needs more than texts."""
        if missing := [part for part in self.parts() if getattr(self.pipe, part, None) is None]:
            raise ValueError(
                f"pipe: {type(self.pipe).__name__} has no {', '.join(missing)}; expected a {self.pipelines[0]}"
            )

    @property
    def net_config(self) -> Any:
        """The network's configuration."""
        return self.net.config

    @property
    def vae_config(self) -> Any:
        """The VAE's configuration."""
        return self.pipe.vae.config

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the latents of a picture of the native size."""
        size = self.net_config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return int(self.net_config["in_channels"]), int(height), int(width)

    @property
    def factor(self) -> int:
        """Pixels a side of a latent pixel."""
        return int(2 ** (len(self.vae_config["block_out_channels"]) - 1))

    @property
    def step(self) -> int:
        """Latent pixels a side that the network takes together; heights and widths are multiples of it."""
        return 1

    def encode_image(self, image: Tensor) -> Tensor:
        """Latents [B,C,h,w] fp32 of pixels [B,3,H,W] in [-1,1]: the mode of the VAE's posterior, normalised.

        In fp32 where the VAE's configuration asks for it (``force_upcast``: SDXL's overflows in fp16).
        """
        vae, weights = self.pipe.vae, {}
        if vae.config.get("force_upcast") and vae.dtype == torch.float16:
            weights = {f"vae.{name}": p.float() for name, p in vae.named_parameters()}
        image = image.to(self.device, torch.float32 if weights else vae.dtype)
        with evaluating(vae):
            mode = torch.func.functional_call(_Mode(vae), weights, (image,))
            return self.normalise(mode.float())

    def normalise(self, mode: Tensor) -> Tensor:
        """The network's latents of the VAE's, [B,C,h,w]."""
        shifted = mode - (self.vae_config.get("shift_factor") or 0.0)
        return shifted * float(self.vae_config["scaling_factor"])

    def output(self, out: Tensor) -> Tensor:
        """What the network predicts [M,C,h,w], of what it returns."""
        return out

    def evaluation_bytes(self, height: int, width: int, itemsize: int) -> int:
        """About the memory of the activations of one evaluation, in bytes; 0: not known."""
        return 0

    def not_fused(self) -> str | None:
        """Why :meth:`fused` cannot stand in for the network, in words for the user; "": there is none for its kind."""
        return ""

    def fused(self, precision: str) -> FusedNetwork:
        """A faster network for all conditions at once; called only where :meth:`not_fused` is None."""
        raise ValueError(f"{self.name} has no fused network for {precision}")

    # -- what all families do

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """Pixels (width, height): the native area at the picture's aspect ratio, in steps that the network takes."""
        step = self.factor * self.step
        _, h, w = self.latent_shape
        scale = (h * w) ** 0.5 * self.factor / (width * height) ** 0.5
        return max(step, round(width * scale / step) * step), max(step, round(height * scale / step) * step)

    def check_texts(self, texts: Iterable[str]) -> None:
        """``ValueError`` for a text that is too long for a tokenizer, or has words that it does not know."""
        convert = getattr(self.pipe, "maybe_convert_prompt", None)
        for tokenizer, encoder in ((getattr(self.pipe, t), getattr(self.pipe, e)) for t, e in self.tokenizers.items()):
            limit = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
            for text in texts:
                # A textual inversion of several vectors is written out before it is read.
                check_text(tokenizer, limit, convert(text, tokenizer) if convert else text)

    def plain(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor], precision: str) -> Tensor:
        """The pipeline's own network on a batch of all conditions: x [M,C,h,w], t [M], encoded [K,…] -> [K,M,C,h,w]."""
        net, m = self.net, len(x)
        k = len(next(iter(encoded.values())))
        own, wanted = PRECISIONS[self.precision], PRECISIONS[precision]
        weights = {n: w.float() for n, w in self.weights.items()} if wanted == torch.float32 != own else {}
        work = torch.float32 if weights else own
        repeated = {name: value.to(work).repeat_interleave(m, 0) for name, value in encoded.items()}
        arguments = self.inputs(x.to(work).repeat(k, 1, 1, 1), t.repeat(k), repeated) | {"return_dict": False}
        lower = wanted not in (torch.float32, own)
        with evaluating(net), torch.autocast(self.device.type, wanted, enabled=lower):
            if weights:
                (out,) = torch.func.functional_call(net, weights, (), arguments)[:1]
            else:
                (out,) = net(**arguments)[:1]
        out = self.output(out)
        return out.view(k, m, *out.shape[1:])


class _Mode(nn.Module):
    """``vae`` as a function of its weights; a tiny autoencoder has latents where others have a distribution."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, image: Tensor) -> Tensor:
        """Pixels [B,3,H,W] -> latents [B,C,h,w]."""
        found = self.vae.encode(image)
        mode: Tensor = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents
        return mode
