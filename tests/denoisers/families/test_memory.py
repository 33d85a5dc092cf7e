"""The estimate of an evaluation's memory against the bytes that are alive at once, at true width, in fake tensors."""

import weakref
from types import SimpleNamespace

import diffusers
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from dpid.denoisers.families.family import Family


class Peak(TorchDispatchMode):
    """The largest number of bytes that tensors made within the context hold at once."""

    def __init__(self):
        super().__init__()
        self.users, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in _pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                self.users[key] = self.users.get(key, 0) + 1
                self.now += size if self.users[key] == 1 else 0
                self.peak = max(self.peak, self.now)
                weakref.finalize(tensor, self.freed, key, size)
        return out

    def freed(self, key, size):
        self.users[key] -= 1
        self.now -= size if self.users[key] == 0 else 0


def flux(side):
    network = diffusers.FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    tokens, text = side * side // 4, 512
    return network, {
        "hidden_states": torch.zeros(1, tokens, 64), "img_ids": torch.zeros(tokens, 3), "txt_ids": torch.zeros(text, 3),
        "encoder_hidden_states": torch.zeros(1, text, 4096), "pooled_projections": torch.zeros(1, 768),
        "timestep": torch.zeros(1), "guidance": torch.zeros(1),
    }  # fmt: skip


def sd3(side):
    network = diffusers.SD3Transformer2DModel(
        num_layers=2, attention_head_dim=64, num_attention_heads=24, joint_attention_dim=4096,
        caption_projection_dim=1536, pooled_projection_dim=2048, pos_embed_max_size=96, dual_attention_layers=(0,),
    )  # fmt: skip
    return network, {
        "hidden_states": torch.zeros(1, 16, side, side), "encoder_hidden_states": torch.zeros(1, 333, 4096),
        "pooled_projections": torch.zeros(1, 2048), "timestep": torch.zeros(1),
    }  # fmt: skip


@pytest.mark.parametrize("side", [32, 128])
@pytest.mark.parametrize("make", [flux, sd3])
def test_an_evaluation_takes_no_more_than_is_estimated(make, side):
    with FakeTensorMode(), torch.inference_mode():
        network, given = make(side)
        with Peak() as measured:
            network(**given, return_dict=False)
    estimate = Family.evaluation_bytes(SimpleNamespace(net_config=network.config, step=2), side, side, 4)
    assert 0.3 * estimate < measured.peak < estimate  # of use as a limit, too: not ten times as much
