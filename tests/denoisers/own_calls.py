"""What a pipeline's own run hands to its network and gets from it, and how far a denoiser is from that."""

import torch

from dpid.denoisers import from_pipeline


def first_call(pipe, text, guidance=2.0, **call):
    """(x [1,C,h,w], time [1], output [2,C,h,w] for no text and ``text``) of the network in the pipeline's own run."""
    net, seen = getattr(pipe, "unet", None) or pipe.transformer, []

    def record(module, args, kwargs, out):
        x, t = args[:2] if args else (kwargs["hidden_states"], kwargs["timestep"])
        seen.append((x[:1].clone(), t.reshape(-1)[:1].clone(), out[0].clone()))

    hook = net.register_forward_hook(record, with_kwargs=True)
    generator = torch.Generator().manual_seed(0)
    pipe(prompt=text, num_inference_steps=2, guidance_scale=guidance, output_type="latent", generator=generator, **call)
    hook.remove()
    return seen[0]


def differs(pipe, text="cow giraffe", call=None, **options):
    """The relative difference of the denoiser's network output from that of the pipeline in its own run."""
    x, t, expected = first_call(pipe, text, **(call or {}))
    family = from_pipeline(pipe, **options).family
    t = t / 1000 if hasattr(pipe, "transformer") else t
    found = family.plain(x, t, family.encode_texts(["", text]), family.precision)[:, 0]
    return float((found - expected).norm() / expected.norm())
