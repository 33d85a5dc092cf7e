"""Mistakes planted in families: each is refused when the pipeline is loaded, by a message that names it."""

import functools
import re

import pytest
import torch
from tiny_pipelines import build

from dpid.denoisers import NetworkDenoiser
from dpid.denoisers.families import family_of
from dpid.denoisers.levels import Discrete

shared = functools.cache(build)


def planted(name, **changes):
    """The family of the tiny pipeline ``name`` with methods or attributes replaced, beside the registered one."""
    family = type(family_of(shared(name)))
    return type(family.__name__, (family,), {"pipelines": (), **changes})


def without(argument):
    """Inputs in which ``argument`` is all zeros."""

    def inputs(self, x, t, encoded):
        found = super(type(self), self).inputs(x, t, encoded)
        return {**found, argument: torch.zeros_like(found[argument])}

    return inputs


def changed(method, change):
    """``change`` of what the family's own ``method`` returns."""
    return lambda self, *args: change(getattr(super(type(self), self), method)(*args))


def columns_first(self, x):
    """Flux's patches, numbered down the columns of the picture."""
    m, c, h, w = x.shape
    return x.view(m, c, h // 2, 2, w // 2, 2).permute(0, 4, 2, 1, 3, 5).reshape(m, h * w // 4, 4 * c)


def from_columns(self, out, x):
    m, c, h, w = x.shape
    return out.view(m, w // 2, h // 2, c, 2, 2).permute(0, 3, 2, 4, 1, 5).reshape(m, c, h, w)


def other_patches(self, mode):
    """Flux.2's latents standardised as if its statistics were numbered by place in the patch first."""
    statistics, (b, c, h, w) = self.pipe.vae.bn, mode.shape
    mean, variance = (v.view(1, 2, 2, c, 1, 1) for v in (statistics.running_mean, statistics.running_var))
    mean, variance = (v.permute(0, 3, 1, 2, 4, 5) for v in (mean, variance))
    patches = mode.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    standard = (patches - mean) / (variance + self.vae_config["batch_norm_eps"]).sqrt()
    return standard.permute(0, 1, 4, 2, 5, 3).reshape(b, c, h, w)


SIGN = "it takes the network's output for ε - x, but the pipeline's own last step ends at a picture of x - ε"
TIME = "it tells the network the time"
ARGUMENTS = r"on the same latents, time and text the network answers otherwise \(.*arguments that differ: "
DECODED = "what the pipeline gives to its VAE differs by .* in the "
NULL = "its empty text is not what the pipeline's guidance takes for no text"
MISTAKES = {
    "a sign": ("flux", {"output": changed("output", torch.neg)}, SIGN),
    "a sign from noise to picture": ("lumina2", {"output": lambda self, out, x: out}, SIGN),
    "the scale of time": ("sd3", {"time": lambda self, t: t}, f"{TIME} 0.5625, the pipeline 562.5"),
    "reversed time": ("lumina2", {"time": lambda self, t: t}, TIME),
    "no pooled text": ("sd3", {"inputs": without("pooled_projections")}, rf"{ARGUMENTS}pooled_projections \(values\)$"),
    "no shift of the VAE": (
        "sd3", {"normalise": lambda self, mode: mode * self.vae_config["scaling_factor"]}, f"{DECODED}shift, scale",
    ),
    "a guidance of 3.5": (
        "flux",
        {"inputs": changed("inputs", lambda found: {**found, "guidance": torch.full_like(found["guidance"], 3.5)})},
        rf"{ARGUMENTS}guidance \(values\)$",
    ),
    "the order of tokens": (
        "flux", {"pack": columns_first, "output": from_columns}, f"{DECODED}order of its tokens",
    ),
    "no positions": ("flux", {"inputs": without("img_ids")}, rf"{ARGUMENTS}img_ids \(values\)$"),
    "an ignored mask": (
        "pixart_sigma", {"mask": None},
        rf"{ARGUMENTS}encoder_attention_mask \(given by the pipeline alone\)$",
    ),
    "the null with an instruction": (
        "sana", {"text": {"encoder_hidden_states": (0, None)}, "mask": (1, None)}, NULL,
    ),
    "the null with a system prompt": (
        "lumina2", {"text": {"encoder_hidden_states": (0, None)}, "mask": (1, None)}, NULL,
    ),
    "a boolean mask": (
        "chroma", {"inputs": lambda self, x, t, encoded: boolean(super(type(self), self).inputs(x, t, encoded))},
        rf"{ARGUMENTS}attention_mask \(values of torch.bool, of the pipeline of torch.float32\)$",
    ),
    "the order of statistics": ("flux2_klein", {"normalise": other_patches}, f"{DECODED}shift, scale or statistics"),
}  # fmt: skip


def boolean(arguments):
    return {**arguments, "attention_mask": arguments["attention_mask"] > 0}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_by_name(mistake):
    name, changes, message = MISTAKES[mistake]
    pipe = shared(name)
    with pytest.raises(ValueError, match=r"^pipe: the family ") as found:
        NetworkDenoiser(planted(name, **changes)(pipe))
    told, _, how = str(found.value).partition(f"{type(pipe).__name__}: ")[2].rpartition("; ")
    assert re.search(message, told)
    assert how == "check=False explains it all the same"


def test_mistakes_of_stable_diffusion(tiny):
    """The empty text for zeros in XL, the other prediction, and noise levels of another model."""
    pipe = tiny(family="xl")
    kind = type(family_of(pipe))

    def encode_texts(self, texts):
        hidden, _, pooled, _ = self.pipe.encode_prompt(list(texts), do_classifier_free_guidance=False)
        return {"encoder_hidden_states": hidden, "text_embeds": pooled}

    def taken_for_v(self):
        return Discrete(self.pipe.scheduler.alphas_cumprod, "v_prediction")

    def other_levels(self):
        return Discrete(self.pipe.scheduler.alphas_cumprod**1.1, "epsilon")

    wrong = "it takes the network's output for v_prediction, but the pipeline's own last step ends at a picture whose"
    for changes, message in (
        ({"encode_texts": encode_texts}, NULL),
        ({"levels": taken_for_v}, wrong),
        ({"levels": other_levels}, "its levels have no log-SNR .*, which the pipeline's scheduler has"),
    ):
        with pytest.raises(ValueError, match=f"pipe: the family Wrong does not fit this .*: {message}"):
            NetworkDenoiser(type("Wrong", (kind,), {"pipelines": (), **changes})(pipe))


UNUSABLE = {
    "the network fails with its arguments (": {"inputs": changed("inputs", lambda found: {**found, "unknown": 1})},
    "the pipeline tells its network the time as timestep, it does not": {
        "inputs": changed("inputs", lambda found: {n: v for n, v in found.items() if n != "timestep"}),
    },
}  # fmt: skip


@pytest.mark.parametrize("message", UNUSABLE)
def test_what_cannot_be_compared_is_a_refusal_too(message):
    with pytest.raises(
        ValueError, match=rf"pipe: the family Flux does not fit this FluxPipeline: {re.escape(message)}"
    ):
        NetworkDenoiser(planted("flux", **UNUSABLE[message])(shared("flux")))
