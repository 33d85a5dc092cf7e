"""Everything of a pipeline of which its user might notice a change."""

from itertools import chain

import torch


def kept(value):
    """``value`` in a form that is equal if and only if it is the same, tensors by their bytes."""
    if isinstance(value, torch.Tensor):
        raw = b"" if value.is_meta else value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return value.dtype, value.device, value.shape, raw
    if isinstance(value, dict):
        return {name: kept(part) for name, part in value.items()}
    return [kept(part) for part in value] if isinstance(value, (list, tuple)) else value


def state(pipe):
    """Its attributes, settings, modules, weights and tokenizers, and torch's random state: {name: value}."""
    found = {
        "attributes": {name: id(value) for name, value in vars(pipe).items()}, "config": dict(pipe.config),
        "progress": dict(getattr(pipe, "_progress_bar_config", {})), "random": kept(torch.get_rng_state()),
    }  # fmt: skip
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            for path, module in part.named_modules():
                found[f"{name}.{path}"] = (
                    module.training, list(vars(module)), list(module._forward_hooks), list(module._forward_pre_hooks),
                    module._compiled_call_impl, id(getattr(module, "processor", None)),
                    id(vars(module).get("_hf_hook")),
                    {n: (p.data_ptr(), p.requires_grad, *kept(p)) for n, p in
                     chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))},
                )  # fmt: skip
        elif hasattr(part, "padding_side"):
            found[name] = (part.padding_side, part.truncation_side, part.model_max_length, len(part))
        elif hasattr(part, "config"):
            found[name] = kept(vars(part))
    return found
