"""The base class of families, and ``FAMILIES``, the registry by pipeline class that subclasses enter automatically."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from dpid.denoisers.added import check_added, unwrapped
from dpid.denoisers.blocks import in_float32, is_quantised_linear, unconvertible
from dpid.denoisers.distilled import check_parametrisation
from dpid.denoisers.encoding import Texts
from dpid.denoisers.families.pictures import Pictures
from dpid.denoisers.levels import Levels
from dpid.denoisers.modes import (
    PRECISIONS,
    evaluating,
    hooks_kept,
    is_offloaded,
    moves_weights,
    taking_turns,
    usable_device,
)
from dpid.denoisers.texts import LENGTHS, by_length, check_text, padding_kept, text_of, unmasked, with_null

if TYPE_CHECKING:
    from dpid.denoisers.fused import FusedNetwork

FAMILIES: dict[str, type[Family]] = {}


class Family(Pictures, ABC):
    """A diffusers pipeline of one kind: how it encodes texts and pictures and calls its network.

    A new kind of pipeline takes one subclass. The pipeline is never changed, and its components are looked up at every
    use, so that one which the user has replaced is used.

    Attributes
    ----------
    pipelines : names of the pipeline classes that the family handles
    networks : names of the classes of its network, to name the family where another pipeline has one
    network : name of the pipeline's attribute that holds the network
    tokenizers : {attribute of a tokenizer: attribute of its text encoder}
    optional : tokenizers and text encoders that a pipeline may lack
    limits : {attribute of a tokenizer: tokens of a text that the pipeline keeps}, where not its own limit
    may_cut : tokenizers that may cut a text, as the network takes no more than a summary of their tokens
    text : {argument of the network: (place of a text's encoding, place of that of no text) in what the pipeline's
        ``encode_prompt`` returns}; a null place of None: no text is encoded as "" is
    mask : the places of the mask of the first argument in ``text``, where the network attends no padding: texts are
        then cut to their own length. None where padding is attended
    example : a text that its pipelines take, to check the family with
    only_fused : whether the network exists only in its fused form, without a module
    texts : encodes the texts of an explanation
    dtype : the type in which a pipeline is loaded by its name; None: that of the network's stored weights
    caveat : one sentence on what limits nats of networks of the kind, or ""
    beside : one sentence on what every text is given with, or ""
    held : the numbers, from above, that an evaluation of a transformer holds at once for each feature of a token
    """

    pipelines: ClassVar[tuple[str, ...]] = ()
    networks: ClassVar[tuple[str, ...]] = ()
    network: ClassVar[str] = "transformer"
    tokenizers: ClassVar[Mapping[str, str]] = {"tokenizer": "text_encoder"}
    optional: ClassVar[tuple[str, ...]] = ()
    limits: ClassVar[Mapping[str, int]] = {}
    may_cut: ClassVar[tuple[str, ...]] = ()
    text: ClassVar[Mapping[str, tuple[int, int | None]]] = {}
    mask: ClassVar[tuple[int, int | None] | None] = None
    example: ClassVar[str] = "a cow"
    only_fused: ClassVar[bool] = False
    dtype: ClassVar[torch.dtype | None] = None
    caveat: ClassVar[str] = ""
    beside: ClassVar[str] = ""
    held: ClassVar[int] = 24

    def __init_subclass__(cls) -> None:
        FAMILIES.update(dict.fromkeys(cls.pipelines, cls))

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.texts = pipe, Texts(self)
        self.check()

    @classmethod
    def parts(cls) -> tuple[str, ...]:
        """Names of the components that a pipeline must have."""
        parts = (cls.network, "vae", "scheduler", *cls.tokenizers, *cls.tokenizers.values())
        return tuple(part for part in parts if part not in cls.optional)

    # -- read from the pipeline

    @property
    def net(self) -> Any:
        """The network, a torch module, without what others have put around it."""
        return unwrapped(getattr(self.pipe, self.network))

    @property
    def device(self) -> torch.device:
        """The device on which the pipeline computes; offloaded weights are on another one between calls.

        Not that of the pipeline's first part, as older diffusers have it: text encoders may be away meanwhile.
        """
        device: torch.device = self.pipe._execution_device if is_offloaded(self.net) else self.net.device
        return device

    @property
    def name(self) -> str:
        """The folder or hub id that the pipeline was loaded from, else the name of its class."""
        stored = getattr(self.pipe, "name_or_path", "") or self.pipe.config.get("_name_or_path", "")
        return str(stored or type(self.pipe).__name__)

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """The context in which a thread uses the pipeline; others wait that share one of its parts."""
        return taking_turns([part for part in self.pipe.components.values() if isinstance(part, nn.Module)])

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameters of the network {name: tensor}."""
        return {name: p.detach() for name, p in self.net.named_parameters()}

    @property
    def precision(self) -> str:
        """The type of the network's weights, a key of ``PRECISIONS``."""
        return next((k for k, v in PRECISIONS.items() if v == self.net.dtype), "float32")

    @property
    def call_parameters(self) -> dict[str, inspect.Parameter]:
        """The parameters {name: parameter} of the pipeline's call, with those that it hands on by ``**kwargs``."""
        found: dict[str, inspect.Parameter] = {}
        for call in (vars(kind)["__call__"] for kind in type(self.pipe).__mro__ if "__call__" in vars(kind)):
            own = inspect.signature(call).parameters
            found = {**own, **found}
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in own.values()):
                break
        return found

    def default(self, name: str) -> Any:
        """The default of an argument of the pipeline's call."""
        return self.call_parameters[name].default

    @property
    def takes_guidance(self) -> bool:
        """Whether guidance is an input of the network, given to :meth:`inputs` among the ``encoded`` texts."""
        return False

    @property
    def takes_pictures(self) -> bool:
        """Whether a condition may have a picture beside its text (IP-Adapter)."""
        return False

    @property
    def guided_by_null(self) -> bool:
        """Whether the pipeline's guidance takes for no text what the family takes for it."""
        return True

    @property
    def example_condition(self) -> Any:
        """The condition of :attr:`example` in the pipeline's call, which may have a picture."""
        return self.example

    def fixed_precision(self) -> str | None:
        """Why the network can compute only in its own type (it is quantised or offloaded), or None."""
        if any(map(moves_weights, self.computing())):
            return "it is offloaded"
        return next((why for _, why in unconvertible(self.net)), None)

    def dequantises(self) -> bool:
        """Whether a network that is quantised can compute in float32 all the same, with the weights that it has."""
        plain = not any(map(moves_weights, self.computing()))
        return plain and all(is_quantised_linear(module) for module, _ in unconvertible(self.net))

    def _parts_of_text(self) -> dict[str, tuple[Any, Any]]:
        """{attribute of a tokenizer: (tokenizer, text encoder)} of those that the pipeline has."""
        found = {t: (getattr(self.pipe, t, None), getattr(self.pipe, e, None)) for t, e in self.tokenizers.items()}
        return {
            name: (getattr(tokenizer, "tokenizer", tokenizer), encoder)  # that of a processor is its attribute
            for name, (tokenizer, encoder) in found.items()
            if tokenizer is not None and encoder is not None
        }

    def text_encoders(self) -> list[nn.Module]:
        """The text encoders that the pipeline has."""
        return [encoder for _, encoder in self._parts_of_text().values()]

    # -- to be implemented by a family

    @abstractmethod
    def levels(self) -> Levels:
        """The noise levels that the network was trained at."""

    # -- defaults that a family may override

    def check(self) -> None:
        """Raise ``ValueError`` if the pipeline lacks a component, needs more input than texts, or predicts no noise.

        Also if its network answers a call by what it computed in others. Optional tokenizers and text encoders may be
        missing together.
        """
        pairs = {part: pair for pair in self.tokenizers.items() for part in pair}
        missing = [
            part
            for part in (*self.parts(), *self.optional)
            if getattr(self.pipe, part, None) is None
            and (part not in self.optional or any(getattr(self.pipe, p, None) is not None for p in pairs[part]))
        ]
        if missing:
            raise ValueError(
                f"pipe: {type(self.pipe).__name__} has no {', '.join(missing)}; expected a {self.pipelines[0]}"
            )
        taken, made = self.channels, self.vae_config.get("latent_channels", self.channels)
        if taken != made:
            raise ValueError(
                f"pipe: the {self.network} of {type(self.pipe).__name__} takes {taken} channels, its VAE makes {made}; "
                "networks of inpainting, depth or editing that take a picture beside the latents are not supported"
            )
        check_added(self.pipe, self.net, self.takes_pictures)
        check_parametrisation(self.pipe, self.net)

    def check_weights(self) -> None:
        """Raise ``ValueError`` if a part that computes has no weights, or is on a device that dpid cannot use."""
        for name in dict.fromkeys((self.network, "vae", *self.tokenizers.values())):
            part = getattr(self.pipe, name)
            if isinstance(part, nn.Module) and any(p.is_meta for p in part.parameters()) and not is_offloaded(part):
                raise ValueError(f"pipe: its {name} is on the meta device, without weights; load them before")
        usable_device(str(self.device))

    def asks(self) -> dict[str, Any]:
        """Further arguments of the pipeline's ``encode_prompt``, where its defaults are not those of its call."""
        return {}

    def written(self, tokenizer: str, text: str) -> str:
        """``text`` as the tokenizer of that name is given it: within a system prompt or a template, if there is one."""
        convert = getattr(self.pipe, "maybe_convert_prompt", None)
        # Textual inversion: a placeholder for several vectors becomes as many tokens.
        return str(convert(text, getattr(self.pipe, tokenizer)) if convert else text)

    def limit(self, tokenizer: str) -> int:
        """The largest number of tokens of a text, special tokens included, that is not cut after that tokenizer."""
        made, encoder = self._parts_of_text()[tokenizer]
        own = (made.model_max_length, getattr(encoder.config, "max_position_embeddings", None))
        return int(min(found for found in (*own, self.limits.get(tokenizer)) if found is not None))

    def encode(self, conditions: Sequence[Any]) -> dict[str, Tensor]:
        """The encodings {argument of the network: [K,…]} of K conditions: of their texts, and pictures if any."""
        self.leave_device()  # the network would stay beside the text encoders
        return self.encode_texts([text_of(condition) for condition in conditions])

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The encodings {argument of the network: [K,…]} of K texts.

        The empty text is encoded as the pipeline's guidance encodes the unconditional prompt. Texts whose padding is
        masked are stored without it, and their lengths as ``LENGTHS`` [K].
        """
        found = self.encode_prompt(texts)

        def rows(place: int, null: int | None) -> Tensor:
            row: Tensor = found[place]
            return row if null is None else with_null(texts, row, found[null])

        encoded = {name: rows(*places) for name, places in self.text.items()}
        if self.mask is not None:
            first = next(iter(self.text))
            encoded[first], encoded[LENGTHS] = unmasked(encoded[first], rows(*self.mask))
        return encoded

    def encode_prompt(self, texts: Sequence[str], **more: Any) -> tuple[Any, ...]:
        """What the pipeline's ``encode_prompt`` returns for K texts, with empty negative prompts where it takes any."""
        takes = inspect.signature(self.pipe.encode_prompt).parameters
        given = {
            "prompt": [text if text.strip() else "" for text in texts], "negative_prompt": [""] * len(texts),
            "prompt_2": None, "prompt_3": None, "prompt_4": None, "device": self.device, "num_images_per_prompt": 1,
            "do_classifier_free_guidance": True, **self.asks(), **more,
        }  # fmt: skip
        pairs = self._parts_of_text().values()
        encoders = [encoder for _, encoder in pairs]
        with evaluating(*encoders), hooks_kept(*encoders), padding_kept(tokenizer for tokenizer, _ in pairs):
            found: tuple[Any, ...] = self.pipe.encode_prompt(**{name: given[name] for name in given if name in takes})
        return found

    def leave_device(self) -> None:
        """Move what ``enable_model_cpu_offload()`` has brought to the device away, as every call of the pipeline does.

        By itself a part leaves only when the one behind it in a call is needed.
        """
        for hook in getattr(self.pipe, "_all_hooks", None) or ():
            hook.offload()

    def set_control(self, control: Any, scale: Any) -> None:
        """Take the PIL picture of a ControlNet and its weight; ``ValueError`` where nothing takes one."""
        alone = scale[0] if isinstance(scale, (list, tuple)) and len(scale) == 1 else scale
        if control is not None or not (isinstance(alone, Real) and alone == 1):
            raise ValueError(f"control, control_scale: are of a ControlNet, and {self.name} has none")

    def set_frames(self, frames: int | None) -> None:
        """Take videos of so many frames, None for the native number; ``ValueError`` for one that is not taken."""
        if frames is not None:
            raise ValueError(f"frames: found {frames}, but {self.name} makes no videos")

    def call_arguments(self) -> dict[str, Any]:
        """Arguments of the pipeline's own call, beside the prompt, that it needs to compute what is explained."""
        return {}

    def computing(self) -> list[nn.Module]:
        """The modules that a prediction is made by."""
        return [self.net]

    def time(self, t: Tensor) -> Tensor:
        """The network's own time [M] at ``t`` [M], a timestep or, of a flow, σ."""
        return t

    def pack(self, x: Tensor) -> Tensor:
        """Latents [M,C,h,w] as the network takes them."""
        return x

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments for latents ``x`` [M,C,h,w], times ``t`` [M] and ``encoded`` texts [M,…]."""
        return {"hidden_states": self.pack(x), "timestep": self.time(t), **encoded}

    def output(self, out: Any, x: Tensor) -> Tensor:
        """The prediction [M,C,h,w] in the network's raw output ``out`` for latents ``x`` [M,C,h,w]; of a flow ε - x.

        Without the variance, where the network has learned one beside it.
        """
        prediction: Tensor = out[:, : x.shape[1]]
        return prediction

    def evaluation_bytes(self, height: int, width: int, itemsize: int) -> int:
        """An upper estimate of the memory in bytes of the activations of one evaluation on [C, height, width].

        Of a transformer :attr:`held` numbers a feature of a token, a block's feed-forward layer and attention with what
        goes on to the next block, and those :attr:`kept`; up to 512 tokens are the text's. 0 if the configuration does
        not say how many features there are.
        """
        config = self.net_config
        heads, size = config.get("num_attention_heads"), config.get("attention_head_dim")
        features = heads * size if heads and size else config.get("hidden_size") or config.get("dim") or 0
        return (self.held + self.kept) * int(features) * (height * width // self.step**2 + 512) * itemsize

    @property
    def kept(self) -> int:
        """The numbers for each feature of a token that are made before, or by earlier blocks, for blocks to come."""
        return 0

    def not_fused(self) -> str | None:
        """Why :meth:`fused` cannot replace the network, for the user; "" if the family has none, None if it can."""
        return ""

    def fused(self, precision: str) -> FusedNetwork:
        """A faster implementation of the network for all conditions; called only if :meth:`not_fused` is None."""
        raise ValueError(f"{self.name} has no fused network for {precision}")

    # -- common to all families

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raise ``ValueError`` for a text that is too long for a tokenizer or has words that it does not know."""
        pairs = self._parts_of_text()
        for name, (tokenizer, _) in pairs.items():
            if name in self.may_cut:
                continue
            encoder = "the text encoder" if len(pairs) == 1 else self.tokenizers[name]
            for text in texts:
                check_text(tokenizer, self.limit(name), self.written(name, text), encoder)

    def plain(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor], precision: str) -> Tensor:
        """The prediction [K,M,C,h,w] of the pipeline's own network, called on one batch of all K·M inputs.

        Where texts differ in length, on a batch for every length. ``x`` [M,C,h,w] are latents, ``t`` [M] times,
        ``encoded`` [K,…] texts; it computes in ``precision``. ``ValueError`` for latents that are too large for it.
        """
        self.check_latents(*x.shape[-2:])
        own, wanted = PRECISIONS[self.precision], PRECISIONS[precision]
        work = torch.float32 if wanted == torch.float32 else own
        rows: dict[int, Tensor] = {}
        modules = self.computing()
        with (
            evaluating(*modules),
            torch.autocast(self.device.type, wanted, enabled=wanted not in (torch.float32, own)),
            in_float32(*modules if work != own else ()),
        ):
            for picked, group in by_length(encoded, next(iter(self.text), "")):
                rows.update(zip(picked, self._batch(x, t, group, work), strict=True))
        return torch.stack([rows[k] for k in range(len(rows))])

    def _batch(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor], work: torch.dtype) -> Tensor:
        """The prediction [K,M,C,h,w] in one call of the network, whose input is of type ``work``."""
        m, k = len(x), len(next(iter(encoded.values())))
        repeated = {
            name: (value.to(work) if value.is_floating_point() else value).repeat_interleave(m, 0)
            for name, value in encoded.items()
        }
        latents = x.to(work).repeat(k, 1, 1, 1)
        arguments = self.inputs(latents, t.repeat(k), repeated) | {"return_dict": False}
        prediction = self.output(getattr(self.pipe, self.network)(**arguments)[0], latents)
        return prediction.view(k, m, *prediction.shape[1:])
