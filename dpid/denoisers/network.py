"""The denoiser of a trained network of any family: its texts, pictures, precision and batches.

Whatever changes what a pipeline computes is noticed by one rule: before each explanation the pipeline's own network is
run on one small input, and unless the output is bit for bit that of the last time, everything that was derived from the
pipeline is made anew.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers import check
from dpid.denoisers.families import Family, family_of
from dpid.denoisers.fused import FusedNetwork
from dpid.denoisers.levels import Discrete, Flow
from dpid.denoisers.modes import PRECISIONS, check_precision
from dpid.denoisers.protocol import Conditions, Denoiser
from dpid.denoisers.texts import check_kind
from dpid.device import exact_float32

_LOG = logging.getLogger("dpid")


def from_pipeline(pipe: Any, *, fused: bool = True, precision: str = "auto") -> NetworkDenoiser:
    """The denoiser of a diffusers pipeline; arguments and errors as of :class:`NetworkDenoiser`."""
    return NetworkDenoiser(family_of(pipe), fused=fused, precision=precision)


class NetworkDenoiser(Denoiser):
    """All conditions in one call of a network, by a fused one where it computes what the pipeline's own computes.

    Parameters
    ----------
    family : of the pipeline; see :func:`from_pipeline`
    fused : False calls the pipeline's own network on a batch of repeated latents; so does, with one logged line, one
        that the fused path does not know (LoRA, custom attention, FreeU, …) or does not reproduce to 1e-5
    precision : "float32", "bfloat16", "float16", or "auto": the network's own, until an explainer chooses

    Raises
    ------
    ValueError
        A precision that the network cannot compute in, or a pipeline that needs more than texts.
    """

    def __init__(self, family: Family, *, fused: bool = True, precision: str = "auto") -> None:
        check_precision(precision)
        self.name = family.name
        self._model = _Model(family, fused)
        self._model.refresh()
        self.precision = family.precision
        if precision != "auto":
            self.precision = self.at(precision).precision
            self.precision_is_chosen = True

    def __reduce__(self) -> tuple[Any, ...]:
        # What is derived from the pipeline is made anew in the other process.
        precision = self.precision if self.precision_is_chosen else "auto"
        return _restored, (self._model.family, self._model.wanted, precision, self.name)

    @property
    def family(self) -> Family:
        """How the network is called."""
        return self._model.family

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes."""
        return self.family.device

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Tokenizers, training flags and CUDA graphs serve one thread at a time."""
        return self.family.lock

    @property
    def levels(self) -> Discrete | Flow:
        """The noise levels that the network was trained at."""
        return self._model.levels

    @property
    def network(self) -> FusedNetwork | None:
        """The fused network in this precision, or None where the pipeline's own is called."""
        return self._model.network(self.precision)

    @property
    def fused(self) -> bool:
        """Whether the fused network is called."""
        return self.network is not None

    @property
    def logsnr_grid(self) -> Tensor:
        """Log-SNRs that the network was trained at, ascending float64 [T]."""
        return self.levels.grid

    @property
    def logsnr_range(self) -> tuple[float, float]:
        """The ends of :attr:`logsnr_grid`."""
        return float(self.logsnr_grid[0]), float(self.logsnr_grid[-1])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the latents of a picture of the native size."""
        return self.family.latent_shape

    @property
    def precisions(self) -> tuple[str, ...]:
        """All types, or the network's own alone where its weights are quantised or offloaded."""
        return tuple(PRECISIONS) if self._model.fixed is None else (self.family.precision,)

    def at(self, precision: str) -> NetworkDenoiser:
        """The same model computing in another type; weights are shared where their type is already that."""
        check_precision(precision, *PRECISIONS)
        if precision not in self.precisions:
            raise ValueError(
                f"precision: found {precision!r}; this network computes in {self.family.precision} alone, since "
                f"{self._model.fixed}"
            )
        if precision == self.precision and self.precision_is_chosen:
            return self
        other = copy.copy(self)
        other.precision, other.precision_is_chosen = precision, True
        return other

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """The native area at the picture's aspect ratio, in steps that the network takes."""
        return self.family.size_for(width, height)

    def evaluation_bytes(self, height: int, width: int) -> int:
        """About what the activations of one evaluation take."""
        return self.family.evaluation_bytes(height, width, PRECISIONS[self.precision].itemsize)

    def refresh(self) -> None:
        """Run the pipeline's own network on a small input, and start afresh where it has changed."""
        self._model.refresh()

    @exact_float32()
    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """Texts as the network reads them, with the keys and values of every cross-attention where it is fused.

        An empty one is what the pipeline's own guidance takes for none. ``ValueError`` for a text too long or with
        unknown words, ``TypeError`` for what is no text.
        """
        check_kind(conditions)
        self.refresh()
        self.family.check_texts(conditions)
        return self.conditions_of(tuple(conditions), self.family.encode_texts(conditions))

    def conditions_of(self, names: tuple[str, ...], encoded: dict[str, Tensor]) -> Conditions:
        """Conditions called ``names`` from their encodings by the family, {argument: [K,…]}."""
        network = self.network
        return Conditions(names, network.encode(encoded) if network else encoded, self._model.state)

    @exact_float32()
    def encode_image(self, image: Tensor) -> Tensor:
        """Latents [B,C,h,w] fp32 of pixels [B,3,H,W] in [-1,1]: the mode of the VAE's posterior, normalised."""
        return self.family.encode_image(image)

    @exact_float32()
    def eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """ε̂ [N,K,B,C,H,W] for z [N,B,C,H,W] at log-SNR [N]; ``RuntimeError`` if the model changed in between."""
        if conditions.state is not self._model.state:
            raise RuntimeError("pipe: was changed while it was being explained; start again")
        n, b = z.shape[:2]
        levels, level = self.levels, logsnr.repeat_interleave(b)
        x = levels.enter(z.flatten(0, 1), level)
        out = levels.eps(self.predict(x, levels.time(logsnr).repeat_interleave(b), conditions), x, level)
        return out.view(-1, n, b, *out.shape[2:]).transpose(0, 1)

    def predict(self, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """The network's output [K,M,C,h,w] for its own input x [M,C,h,w] at its own times t [M]."""
        network = self.network
        if network is not None:
            return network(x, t, conditions.encoded)
        return self.family.plain(x, t, conditions.encoded, self.precision)


def _restored(family: Family, fused: bool, precision: str, name: str) -> NetworkDenoiser:
    denoiser = NetworkDenoiser(family, fused=fused, precision=precision)
    denoiser.name = name
    return denoiser


class _Model:
    """What is derived from a pipeline, shared by its denoisers of all precisions.

    Attributes
    ----------
    state : another object after every change of the pipeline
    levels : that the network was trained at
    fixed : why it computes in its own type alone, or None
    """

    levels: Discrete | Flow

    def __init__(self, family: Family, wanted: bool) -> None:
        self.family, self.wanted = family, wanted
        self.state: object = None
        self.fixed: str | None = None
        self._seen: tuple[Any, ...] | None = None
        self._fusable = False
        self._networks: dict[str, FusedNetwork | None] = {}

    @exact_float32()
    def refresh(self) -> None:
        """Look at the pipeline again."""
        family = self.family
        if family.only_fused and self._seen is not None:
            return
        family.check()
        levels, fixed, reason = family.levels(), family.fixed_precision(), family.not_fused()
        # Where only the pipeline's own network is called there is nothing that could be out of date.
        own = None if family.only_fused or not self.wanted else check.own_output(family, levels)
        bits = b"" if own is None else own.float().cpu().numpy().tobytes()
        seen = (id(family.net), family.device, family.precision, levels.signature, fixed, reason, bits)
        if seen == self._seen:
            return
        self._seen, self.state, self.levels, self.fixed = seen, object(), levels, fixed
        self._networks, self._fusable = {}, self.wanted and reason is None
        if self._fusable and own is not None:
            network = self.network(family.precision)
            assert network is not None
            found = check.difference(family, levels, network, own)
            # Not "greater than": NaN is a difference too.
            self._fusable = found <= check.TOLERANCE[family.precision]
            reason = f"it differs from the pipeline's UNet by {found:.1e}"
        if self.wanted and not self._fusable and reason:
            _LOG.warning("the fused path is not taken, %s: conditions run as one plain batch", reason)

    def network(self, precision: str) -> FusedNetwork | None:
        """The fused network in ``precision``, made when first asked for; None where the own one is called."""
        if not self._fusable:
            return None
        if precision not in self._networks:
            self._networks[precision] = self.family.fused(precision)
        return self._networks[precision]
