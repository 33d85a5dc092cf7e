"""What users add to a network, and families cannot compute with."""

from __future__ import annotations

from typing import Any

IP_ADAPTER = "ip_image_proj"  # encoder_hid_dim_type of a network with an IP-Adapter, which has it by attribute alone


def unwrapped(net: Any) -> Any:
    """The network ``net`` itself, without what ``torch.compile`` and PEFT's ``get_peft_model`` have put around it."""
    while True:
        if hasattr(net, "_orig_mod"):
            net = net._orig_mod
        elif type(net).__module__.startswith("peft."):
            net = getattr(net.base_model, "model", net.base_model)
        else:
            return net


def check_added(pipe: Any, net: Any, takes_pictures: bool) -> None:
    """``ValueError`` if ``net`` has an IP-Adapter and its family takes none, or answers by what it computed before."""
    kind, part = getattr(net.config, "encoder_hid_dim_type", None), getattr(net, "image_proj", None)  # of SD3
    if (kind == IP_ADAPTER or part is not None) and not takes_pictures:
        raise ValueError(
            f"pipe: the {type(net).__name__} of {type(pipe).__name__} needs a picture as a second prompt (IP-Adapter); "
            "supported is that of Stable Diffusion 1.x, 2.x and XL, or none after unload_ip_adapter()"
        )
    if getattr(net, "is_cache_enabled", False):
        raise ValueError("pipe: its network caches answers (enable_cache); call disable_cache() first")
