"""The base class of families, and ``FAMILIES``, the registry by pipeline class that subclasses enter automatically."""

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
# One lock a component: tokenizers and networks are not thread-safe, and pipelines may share them.
_LOCKS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
# Packages whose modules compute in the type of their parameters; quantised layers, for example, do not.
_KNOWN = ("torch.nn.modules.", "diffusers.", "peft.")


class Family(ABC):
    """A diffusers pipeline of one kind: how it encodes texts and pictures and calls its network.

    A new kind of pipeline takes one subclass. The pipeline is never changed, and its components are looked up at every
    use, so that one which the user has replaced is used.

    Attributes
    ----------
    pipelines : names of the pipeline classes that the family handles
    network : name of the pipeline's attribute that holds the network
    tokenizers : {attribute of a tokenizer: attribute of its text encoder}
    only_fused : whether the network exists only in its fused form, without a module
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
        """Names of the components that a pipeline must have."""
        return (cls.network, "vae", "scheduler", *cls.tokenizers, *cls.tokenizers.values())

    # -- read from the pipeline

    @property
    def net(self) -> Any:
        """The network, a torch module."""
        return getattr(self.pipe, self.network)

    @property
    def device(self) -> torch.device:
        """The device on which the pipeline computes; offloaded weights are on another one between calls."""
        device: torch.device = self.pipe._execution_device
        return device

    @property
    def name(self) -> str:
        """The folder or hub id that the pipeline was loaded from, else the name of its class."""
        stored = getattr(self.pipe, "name_or_path", "") or self.pipe.config.get("_name_or_path", "")
        return str(stored or type(self.pipe).__name__)

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """The lock that a thread holds while it uses the pipeline."""
        shared = next(part for part in self.pipe.components.values() if isinstance(part, nn.Module))
        lock: AbstractContextManager[Any] = _LOCKS.setdefault(shared, threading.RLock())
        return lock

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameters of the network {name: tensor}."""
        return {name: p.detach() for name, p in self.net.named_parameters()}

    @property
    def precision(self) -> str:
        """The type of the network's weights, a key of ``PRECISIONS``."""
        return next((k for k, v in PRECISIONS.items() if v == self.net.dtype), "float32")

    def fixed_precision(self) -> str | None:
        """Why the network can compute only in its own type (it is quantised or offloaded), or None."""
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

    # -- to be implemented by a family

    @abstractmethod
    def levels(self) -> Discrete | Flow:
        """The noise levels that the network was trained at."""

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The encodings {argument of the network: [K,…]} of K texts.

        The empty text is encoded as the pipeline's guidance encodes the unconditional prompt.
        """

    @abstractmethod
    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments for latents ``x`` [M,C,h,w], times ``t`` [M] and ``encoded`` texts [M,…]."""

    # -- defaults that a family may override

    def check(self) -> None:
        """Raise ``ValueError`` if the pipeline lacks a component or needs more input than texts."""
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
        """The VAE's downsampling factor: the side of a latent pixel in pixels."""
        return int(2 ** (len(self.vae_config["block_out_channels"]) - 1))

    @property
    def step(self) -> int:
        """The number that heights and widths of latents must be multiples of."""
        return 1

    def encode_image(self, image: Tensor) -> Tensor:
        """Latents [B,C,h,w] fp32 of pixels [B,3,H,W] in [-1,1]: the mode of the VAE's posterior, normalised.

        Computed in fp32 if the VAE's configuration has ``force_upcast``: SDXL's VAE overflows in fp16.
        """
        vae, weights = self.pipe.vae, {}
        if vae.config.get("force_upcast") and vae.dtype == torch.float16:
            weights = {f"vae.{name}": p.float() for name, p in vae.named_parameters()}
        image = image.to(self.device, torch.float32 if weights else vae.dtype)
        with evaluating(vae):
            mode = torch.func.functional_call(_Mode(vae), weights, (image,))
            return self.normalise(mode.float())

    def normalise(self, mode: Tensor) -> Tensor:
        """The network's latents [B,C,h,w]: the VAE's latents ``mode``, shifted and scaled."""
        shifted = mode - (self.vae_config.get("shift_factor") or 0.0)
        return shifted * float(self.vae_config["scaling_factor"])

    def output(self, out: Tensor) -> Tensor:
        """The prediction [M,C,h,w] in the network's raw output ``out``."""
        return out

    def evaluation_bytes(self, height: int, width: int, itemsize: int) -> int:
        """Estimated memory in bytes of the activations of one evaluation on [C, height, width]; 0 if unknown."""
        return 0

    def not_fused(self) -> str | None:
        """Why :meth:`fused` cannot replace the network, for the user; "" if the family has none, None if it can."""
        return ""

    def fused(self, precision: str) -> FusedNetwork:
        """A faster implementation of the network for all conditions; called only if :meth:`not_fused` is None."""
        raise ValueError(f"{self.name} has no fused network for {precision}")

    # -- common to all families

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """Pixels (width, height) of about the native area, at the aspect ratio of the picture.

        They are multiples of :attr:`factor` times :attr:`step`.
        """
        step = self.factor * self.step
        _, h, w = self.latent_shape
        scale = (h * w) ** 0.5 * self.factor / (width * height) ** 0.5
        return max(step, round(width * scale / step) * step), max(step, round(height * scale / step) * step)

    def check_texts(self, texts: Iterable[str]) -> None:
        """Raise ``ValueError`` for a text that is too long for a tokenizer or has words that it does not know."""
        convert = getattr(self.pipe, "maybe_convert_prompt", None)
        for tokenizer, encoder in ((getattr(self.pipe, t), getattr(self.pipe, e)) for t, e in self.tokenizers.items()):
            limit = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
            for text in texts:
                # Textual inversion: a placeholder for several vectors becomes as many tokens.
                check_text(tokenizer, limit, convert(text, tokenizer) if convert else text)

    def plain(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor], precision: str) -> Tensor:
        """The prediction [K,M,C,h,w] of the pipeline's own network, called on one batch of all K·M inputs.

        ``x`` [M,C,h,w] are latents, ``t`` [M] times, ``encoded`` [K,…] texts; it computes in ``precision``.
        """
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
    """The encoder of ``vae`` as a module, so that ``functional_call`` can replace its weights.

    A tiny autoencoder returns latents where other VAEs return a distribution.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, image: Tensor) -> Tensor:
        """Latents [B,C,h,w], the mode of the posterior, of pixels [B,3,H,W]."""
        found = self.vae.encode(image)
        mode: Tensor = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents
        return mode
