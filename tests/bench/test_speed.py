"""Contenders that are no match for the pipeline's own network, and those of every kind of pipeline."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dpid.bench.measure import rows_of
from dpid.bench.speed import UNCOUNTED, Contender, Speed, contenders, speed
from dpid.denoisers import from_pipeline
from dpid.estimation.sampling import draw

PAIRS = torch.tensor([[0, 1]])


def measured(pipe, contender=None, **options):
    """(the speed of the fused network, or of ``contender`` made of it; names of all contenders)."""
    denoiser = from_pipeline(pipe, precision="float32", **options)
    ways = dict(contenders(denoiser, pipe, ("", "a cow"), False))
    x = torch.randn(1, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    samples = draw("shifted-grid", denoiser.logsnr_grid, 2, 1, torch.Generator().manual_seed(0))
    other = ways["fused"] if contender is None else contender(denoiser, ways["fused"].conditions)
    return speed("other", other, ways["plain"], x, samples, PAIRS, 0), list(ways)


def test_the_fused_network_against_the_pipeline(tiny):
    found, names = measured(tiny())
    assert names == ["plain", "fused"]
    assert found.evaluations == 4
    assert len(found.times) == len(found.reference) == 3
    assert 0 < found.difference < 1e-5  # float32 in another order
    assert found.flops > 0


def test_a_ratio_of_pairs_comes_with_the_speed_that_it_compares_with():
    """On a machine that others use plain may have been as fast when it ran alone."""
    found = Speed(32, 0, times=[1.0, 2.0, 4.0], reference=[2.0, 4.0, 8.0], difference=0, flops=1)
    rate, _, ratio, _ = rows_of("fused", found, 1)
    assert (rate.value, ratio.value) == (16, 2)
    assert "which made 8 a second meanwhile" in ratio.note


def test_products_that_are_added_in_place_are_counted():
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counted:
        torch.zeros(3, 5).addmm_(torch.ones(3, 7), torch.ones(7, 5))
    assert counted.get_total_flops() == 2 * 3 * 7 * 5


class Off(Contender):
    def eps_hat(self, x, samples):
        return super().eps_hat(x, samples) * 1.01


class Infinite(Contender):
    def eps_hat(self, x, samples):
        return super().eps_hat(x, samples) / 0


def test_other_predictions_are_refused(tiny):
    with pytest.raises(ValueError, match=r"^model: other differs by 1\.0e-02 from the pipeline's own network$"):
        measured(tiny(), Off)
    with pytest.raises(FloatingPointError, match=r"^model: other predicts NaN or infinity in float32$"):
        measured(tiny(), Infinite)


def test_in_a_half_type_the_pipeline_stays_as_it_is(tiny):
    pipe = tiny()
    denoiser = from_pipeline(pipe, precision="bfloat16")
    name, plain = next(contenders(denoiser, pipe, ("", "a cow"), False))
    assert (name, plain.denoiser.family.net.dtype, pipe.unet.dtype) == ("plain", torch.bfloat16, torch.float32)
    assert plain.denoiser.family.net is not pipe.unet


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_unet_in_a_half_type_is_channels_last_on_a_gpu(tiny, dtype, monkeypatch):
    monkeypatch.setattr("dpid.bench.speed.is_gpu", lambda device: True)
    pipe = tiny().to(dtype)
    denoiser = from_pipeline(pipe, precision="bfloat16")
    weight = next(contenders(denoiser, pipe, ("", "a cow"), False))[1].denoiser.family.net.conv_in.weight
    assert (weight.dtype, weight.is_contiguous(memory_format=torch.channels_last)) == (torch.bfloat16, True)
    assert pipe.unet.dtype == dtype
    assert not pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
