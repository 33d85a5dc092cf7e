"""The denoiser of a trained network of any family: its texts, pictures, precision and batches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dpid.checks import truth
from dpid.denoisers.blocks import ROUNDS, blocks_of, calling
from dpid.denoisers.derived import Derived
from dpid.denoisers.distilled import distilled
from dpid.denoisers.families import Family, family_of
from dpid.denoisers.fused import FusedNetwork
from dpid.denoisers.guidance import GUIDANCE, bend, check_guidance, sentence, undone
from dpid.denoisers.levels import Levels
from dpid.denoisers.modes import PRECISIONS, check_precision
from dpid.denoisers.protocol import Conditions, Denoiser
from dpid.denoisers.texts import check_kind, text_of
from dpid.device import exact_float32, is_gpu


def from_pipeline(pipe: Any, **options: Any) -> NetworkDenoiser:
    """The denoiser of a diffusers pipeline; ``options`` and errors as of :class:`NetworkDenoiser`."""
    return NetworkDenoiser(family_of(pipe), **options)


class NetworkDenoiser(Denoiser):
    """A diffusers pipeline as a denoiser that evaluates all conditions in one call of its network.

    Parameters
    ----------
    family : the pipeline, wrapped by its family; see :func:`from_pipeline`
    fused : whether to use the fused network, a faster implementation of the pipeline's own. The pipeline's own network
        is called on a batch of repeated latents if False, and, with a logged warning, where the fused network does not
        support the pipeline (LoRA, custom attention, FreeU, …) or does not reproduce it (to 1e-5 in float32)
    precision : "float32", "bfloat16", "float16", or "auto": the type of the network's weights, until an explainer
        chooses another
    check : whether to run the pipeline for two steps at a small size and compare what it computes with the family, once
        for pipelines of the same classes, configurations, types and adapters
    size : pixels a side of a square of the area to which pictures are brought, at most the native one, which is the
        default; a smaller picture takes less time
    compile : whether ``torch.compile`` compiles the fused network, as one graph, or else the blocks of the pipeline's
        own in the type of its weights. Between two calls the pipeline's own blocks are as they were
    frames : of the videos that are explained, at most as many as the pipeline makes by default, which is the default
    control, control_scale : PIL picture of the pipeline's ControlNet, which takes it with every condition, and the
        weight of what it adds; a list of each where there are several
    guidance : what a network is told that was distilled at guidance. Any but 1, which is none, is undone in ε̂, as far
        as the network is linear in it; :attr:`caveat` says how far it is

    Raises
    ------
    ValueError
        The network cannot compute in ``precision`` or at ``size``, takes no ``guidance``, or cannot be compiled, the
        pipeline needs more input than texts, or it does something else than its family says.
    """

    def __init__(
        self, family: Family, *, fused: bool = True, precision: str = "auto", check: bool = True,
        size: int | None = None, frames: int | None = None, compile: bool = False, guidance: float = 1.0,
        control: Any = None, control_scale: Any = 1.0,
    ) -> None:  # fmt: skip
        check_precision(precision)
        fused, check, compile = truth("fused", fused), truth("check", check), truth("compile", compile)
        family.check_size(size)
        family.set_frames(frames)
        family.set_control(control, control_scale)
        check_guidance(guidance, family.takes_guidance, family.name)
        self.size, self._control = size, (control, control_scale)
        self.guidance = float(guidance)
        self._null: Conditions | None = None  # under the guidance, where that is undone
        self._bend: float | None = None
        self.name = family.name
        self._derived = Derived(family, fused, compile, check)
        self._derived.refresh()
        if compile and not self._derived.fusable and not blocks_of(family.net):
            raise ValueError(f"compile: found True, but the network of {self.name} has no blocks")
        self.precision = family.precision
        if precision != "auto":
            self.precision = self.at(precision).precision
            self.precision_is_chosen = True

    def __reduce__(self) -> tuple[Any, ...]:
        # What is derived from the pipeline is made anew in the other process.
        precision = self.precision if self.precision_is_chosen else "auto"
        derived = self._derived
        options = {"fused": derived.wanted, "precision": precision, "check": derived.checked, "size": self.size}
        options |= {"compile": derived.compile, "guidance": self.guidance, "frames": self.frames}
        options |= dict(zip(("control", "control_scale"), self._control, strict=True))
        return _restored, (self._derived.family, self.name, options)

    def __copy__(self) -> NetworkDenoiser:
        other = object.__new__(type(self))  # which __reduce__ would make anew
        vars(other).update(vars(self))
        return other

    @property
    def family(self) -> Family:
        """The wrapped pipeline."""
        return self._derived.family

    @property
    def device(self) -> torch.device:
        """The device on which the pipeline computes."""
        return self.family.device

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """The context in which a thread uses the model, for one explanation.

        Others wait meanwhile, since tokenizers and CUDA graphs are not thread-safe, and texts are encoded once.
        """
        return self._derived.used()

    @property
    def distilled(self) -> str:
        """Why predictions are no posterior means, as far as configurations and names of the pipeline tell, or ""."""
        return "" if self.family.only_fused else distilled(self.family.pipe, self.family.net)

    @property
    def caveat(self) -> str:
        """What limits the numbers: what texts are given with, the family's nats, guidance, rounding; or ""."""
        family, means = self.family, not self.distilled
        known = [family.beside]
        if means:  # of nats, which a network distilled to a few steps does not give
            known.append(family.caveat)
        if family.takes_guidance and (means or self.guidance != 1):
            known.append(sentence(self.guidance, self._bend))
        if self._derived.fixed and family.precision == "float32" and family.dequantises():
            known.append(ROUNDS)
        return "; ".join(filter(None, known))

    @property
    def levels(self) -> Levels:
        """The noise levels that the network was trained at."""
        return self._derived.levels

    @property
    def state(self) -> object:
        """A token that is replaced where the pipeline is found to have changed."""
        return self._derived.state

    @property
    def network(self) -> FusedNetwork | None:
        """The fused network in this precision, or None where the pipeline's own network is called."""
        return self._derived.network(self.precision)

    @property
    def fused(self) -> bool:
        """Whether the fused network is called."""
        return self.network is not None

    @property
    def logsnr_grid(self) -> Tensor:
        """Log-SNRs that the network was trained at, ascending float64 [T]."""
        return self.levels.grid

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the latents of a picture of the native size."""
        return self.family.latent_shape

    @property
    def frames(self) -> int | None:
        """The number of frames of a video; None of a model of pictures."""
        return self.family.frames

    @property
    def latent_frames(self) -> int | None:
        """The number of frames of a video's latents; None of pictures."""
        return self.family.latent_frames

    @property
    def patch(self) -> int:
        """The number that heights and widths of latents have to be multiples of."""
        return self.family.patch

    @property
    def precisions(self) -> tuple[str, ...]:
        """The types that the network can compute in: all, or only its own if its weights are quantised or offloaded.

        With weights that bitsandbytes quantised it can in float32, too. Weights in a half type that no fused network
        replaces compute in that type or float32: torch's autocast does not turn one half type into the other.
        """
        own = self.family.precision
        if self._derived.fixed is not None:
            return ("float32", own) if own != "float32" and self.family.dequantises() else (own,)
        return tuple(PRECISIONS) if own == "float32" or self._derived.fusable else ("float32", own)

    def at(self, precision: str) -> NetworkDenoiser:
        """The same model computing in ``precision``; weights that already have that type are shared.

        ``ValueError`` for a type that is not in :attr:`precisions`.
        """
        check_precision(precision, *PRECISIONS)
        if precision not in self.precisions:
            raise ValueError(
                f"precision: found {precision!r}; this network computes in {' or '.join(self.precisions)} alone, since "
                f"{self._derived.fixed or f'its weights are {self.family.precision}'}"
            )
        if precision == self.precision and self.precision_is_chosen:
            return self
        other = copy.copy(self)
        other.precision, other.precision_is_chosen = precision, True
        return other

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """Pixels (width, height) of about the native area, or :attr:`size`², at the aspect ratio of the picture."""
        return self.family.size_for(width, height, self.size)

    def evaluation_bytes(self, height: int, width: int) -> int:
        """Estimated memory of the activations of one evaluation, in bytes."""
        return self.family.evaluation_bytes(height, width, PRECISIONS[self.precision].itemsize)

    def refresh(self) -> None:
        """Check whether the pipeline has changed and, if so, discard everything that was derived from it."""
        self._derived.refresh()

    @exact_float32()
    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """The encoded texts ``conditions``; for the fused network with keys and values of every cross-attention.

        The empty text is encoded as the pipeline's guidance encodes the unconditional prompt. ``ValueError`` for a text
        that is too long or has unknown words, ``TypeError`` for a condition that is no text.
        """
        check_kind(conditions, self.family.takes_pictures)
        self.refresh()
        return self.encode_again(conditions)

    @exact_float32()
    def encode_again(self, conditions: Sequence[Any]) -> Conditions:
        """The encoded texts ``conditions``, without a check of whether the pipeline has changed."""
        self.family.check_texts([text_of(condition) for condition in conditions])
        texts = self.family.texts
        if self.guidance != 1:
            self._null = self._guided(self.conditions_of(("",), texts.encode([""])), self.guidance)
        return self._guided(self.conditions_of(tuple(map(str, conditions)), texts.encode(conditions)), self.guidance)

    def _guided(self, conditions: Conditions, guidance: float) -> Conditions:
        """``conditions`` under which the network is told ``guidance``; as they are if it takes none."""
        if not self.family.takes_guidance:
            return conditions
        told = torch.full((len(conditions.names),), guidance, device=self.device)
        return replace(conditions, encoded={**conditions.encoded, GUIDANCE: told})

    def conditions_of(self, names: tuple[str, ...], encoded: dict[str, Tensor]) -> Conditions:
        """The conditions ``names``, K of them, from the family's encodings {argument: [K,…]}."""
        network = self.network
        return Conditions(names, network.encode(encoded) if network else encoded, self.state)

    @exact_float32()
    def encode_image(self, image: Tensor) -> Tensor:
        """Latents [B,C,h,w] fp32 of pixels [B,3,H,W] in [-1,1]: the mode of the VAE's posterior, normalised."""
        return self.family.encode_image(image)

    @exact_float32()
    def eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """Predicted noise ε̂ [N,K,B,C,H,W] for z [N,B,C,H,W] at log-SNR [N].

        ``RuntimeError`` if the pipeline has changed since ``conditions`` were encoded.
        """
        self._check_state(conditions)
        found = self._eps_hat(z, logsnr, conditions)
        if self._null is None:
            return found
        none = conditions.names.index("") if "" in conditions.names else None
        null = self._eps_hat(z, logsnr, self._null) if none is None else found[:, none : none + 1]
        return undone(found, null, self.guidance)

    @property
    def joins(self) -> bool:
        """Whether images with conditions of their own are evaluated in one call: by the fused network on a GPU.

        On a CPU that is hardly faster, and the network rounds otherwise in larger batches.
        """
        return self.fused and self.guidance == 1 and is_gpu(self.device)

    @exact_float32()
    def eps_hat_each(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """Predicted noise ε̂ [N,K,B,C,H,W] for z [N,B,C,H,W], every image under its own of K·B ``conditions``.

        By one call if it :attr:`joins`; errors as of :meth:`eps_hat`.
        """
        if not self.joins:
            return super().eps_hat_each(z, logsnr, conditions)
        self._check_state(conditions)
        n, b = z.shape[:2]
        out = self._predicted(z.transpose(0, 1).flatten(0, 1), logsnr.repeat(b), conditions, b)
        return out.view(-1, b, n, *out.shape[2:]).movedim(2, 0)

    @exact_float32()
    def examine(self, x: Tensor, conditions: Conditions) -> None:
        """Measure on latents ``x`` [B,C,H,W] how linear the network is in a guidance that is undone."""
        if self._null is None:
            return
        last = conditions[len(conditions.names) - 1 :]

        def eps_hat(z: Tensor, logsnr: Tensor, guidance: float) -> Tensor:
            return self._eps_hat(z, logsnr, self._guided(last, guidance))

        self._bend = bend(eps_hat, x, self.logsnr_grid, self.guidance)

    def _eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """What the network predicts, with its guidance."""
        n, b = z.shape[:2]
        out = self._predicted(z.flatten(0, 1), logsnr.repeat_interleave(b), conditions)
        return out.view(-1, n, b, *out.shape[2:]).transpose(0, 1)

    def _predicted(self, z: Tensor, logsnr: Tensor, conditions: Conditions, images: int = 1) -> Tensor:
        """ε̂ [K,M,C,H,W] for z [M,C,H,W] at log-SNR [M]; ``images`` as for :meth:`predict`."""
        x = self.levels.enter(z, logsnr)
        return self.levels.eps(self.predict(x, self.levels.time(logsnr), conditions, images), x, logsnr)

    def _check_state(self, conditions: Conditions) -> None:
        if conditions.state is not self.state:
            raise RuntimeError("pipe: was changed while it was being explained; start again")

    def predict(self, x: Tensor, t: Tensor, conditions: Conditions, images: int = 1) -> Tensor:
        """The network's output [K,M,C,h,w] for its own input x [M,C,h,w] at its own times t [M].

        With ``images`` the rows of x are as many images, one after the other, each with K conditions of its own, as
        :meth:`eps_hat_each` takes them. That needs the fused network.
        """
        self.family.texts.leave(self._derived.drop_graphs)
        network = self.network
        if network is not None:
            return network(x, t, conditions.encoded, images)
        with calling(self._derived.compiled()):
            return self.family.plain(x, t, conditions.encoded, self.precision)


def _restored(family: Family, name: str, options: dict[str, Any]) -> NetworkDenoiser:
    denoiser = NetworkDenoiser(family, **options)
    denoiser.name = name
    return denoiser
