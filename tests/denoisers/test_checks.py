"""The comparison of a family with its pipeline at load: what passes, and that it leaves no trace."""

import importlib

import diffusers
import pytest
import torch
from pipeline_state import kept, state
from tiny_pipelines import TINY, build

import dpid
from dpid.denoisers import NetworkDenoiser, from_pipeline
from dpid.denoisers.checks import check_family, pipeline
from dpid.denoisers.families import family_of
from dpid.denoisers.modes import as_written
from dpid.denoisers.texts import LENGTHS
from dpid.quiet import quiet


@pytest.fixture(autouse=True)
def log(checked_again):
    """What dpid says in a test, all of which compare their pipelines."""
    return checked_again


def said(log):
    """What dpid said; libraries say more when they are imported."""
    return [record.getMessage() for record in log.records if record.name == "dpid"]


def differences(pipe):
    """What the check finds, which it does not refuse."""
    family = family_of(pipe)
    with family.lock, pipeline.unchanged(family):
        return pipeline._differences(family, family.levels())


def typed(pipe, dtype):
    with quiet():
        return pipe.to(dtype=dtype)


@pytest.mark.parametrize("name", TINY)
def test_every_family_fits_its_pipeline(name):
    found = differences(build(name))
    # Without guidance of its own a pipeline has no null.
    assert set(found) == {"time", "network", "noise", "decoded", *(["null"] if name != "flux2" else [])}
    # float32, whose step is 1e-7; the noise of CogView4, Sana and Wan is what is left close to the picture.
    assert max(found.values()) < (1e-4 if name in ("cogview4", "sana", "wan") else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["sd3", "flux", "z_image", "pixart_sigma", "lumina2", "hidream"])
def test_every_family_fits_in_half_precision(name, dtype):
    pipe = typed(build(name), dtype)
    found = differences(pipe)
    step = torch.finfo(dtype).eps
    assert found["time"] < step / 2  # one rounding
    assert found["decoded"] < step  # two, relative to all of the latents
    assert found["noise"] < 1e-6  # in float32 whatever the pipeline's type
    cut = LENGTHS in family_of(pipe).encode_texts([""])
    assert found["network"] < (step if cut else 1e-9)  # the same arguments, the same bits


# Samplers whose last step does not end at the network's picture, or that add noise, or take other steps.
SCHEDULERS = ["EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler", "LCMScheduler", "PNDMScheduler"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of old schedulers
@pytest.mark.parametrize(("family", "prediction"), [("sd1", "epsilon"), ("xl", "v_prediction")])
def test_stable_diffusion_with_any_sampler(tiny, family, prediction):
    pipe = tiny(prediction, family=family)
    for kind in ("DDIMScheduler", *SCHEDULERS):
        pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config)
        assert max(differences(pipe).values()) < 1e-5  # float32, through a step of the sampler


def test_a_pipeline_that_starts_from_a_picture(tiny):
    first, second = tiny(), tiny(family="xl")
    for pipe in (
        diffusers.StableDiffusionImg2ImgPipeline(**first.components, requires_safety_checker=False),
        diffusers.StableDiffusionXLImg2ImgPipeline(**second.components),
    ):
        assert max(differences(pipe).values()) < 1e-5  # as above


def test_a_sampler_that_stops_before_the_picture_is_not_compared(log):
    pipe = build("sana")
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "final_sigmas_type": "sigma_min"}
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler(**flow)
    from_pipeline(pipe)
    (told,) = said(log)
    assert told.endswith("the last step of its DPMSolverMultistepScheduler does not end at the picture")


# -- that it leaves no trace


def used(name):
    """A tiny pipeline after calls, in which encoders and networks set themselves up, with a new scheduler."""
    pipe = build(name)
    differences(pipe)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    return pipe


@pytest.mark.parametrize("offloaded", [False, True])
def test_a_vae_that_overflows_in_half_precision_keeps_its_types(offloaded, log):
    """AuraFlow's pipeline leaves it in float32; some of this one's weights were in float32 before."""
    pipe = typed(build("aura_flow"), torch.float16)
    assert pipe.vae.config.force_upcast
    pipe.vae.encoder.conv_out.float()
    if offloaded:
        pytest.importorskip("accelerate").cpu_offload(pipe.vae, execution_device=torch.device("cpu"))
    before = {name: kept(p) for name, p in pipe.vae.named_parameters()}
    from_pipeline(pipe)
    assert {name: kept(p) for name, p in pipe.vae.named_parameters()} == before
    assert "agrees with the pipeline" in log.text


def wrong(pipe):
    """A family of Flux whose velocity has the wrong sign."""
    kind = type(family_of(pipe))
    return type("Wrong", (kind,), {"pipelines": (), "output": lambda self, out, x: -kind.output(self, out, x)})(pipe)


def test_also_when_it_is_refused_or_cannot_run(monkeypatch, log):
    pipe = used("flux")
    decode = lambda z, **more: type(pipe.vae).decode(pipe.vae, z, **more)  # noqa: E731, one of somebody else
    pipe.vae.decode = decode
    before = state(pipe)
    with pytest.raises(ValueError, match="ends at a picture of x - ε"):
        NetworkDenoiser(wrong(pipe))
    assert state(pipe) == before

    def broken(z, **more):
        raise KeyError("a broken decoder")

    pipe.vae.decode = broken
    before = state(pipe)
    from_pipeline(pipe)
    assert state(pipe) == before
    assert (
        "family Flux was not compared with the pipeline: FluxPipeline could not be run ('a broken decoder')" in log.text
    )


def test_a_compiled_network_is_not_compiled_again():
    if not hasattr(torch.compiler, "set_stance"):
        pytest.skip("this version of torch cannot run compiled modules as they are written")
    pipe, compiled = used("z_image"), []
    for block in pipe.transformer.layers:
        block.compile(backend=lambda module, inputs: compiled.append(module) or module.forward)
    before = state(pipe)
    check_family(family_of(pipe), family_of(pipe).levels())
    assert not compiled
    from_pipeline(pipe)  # which looks for changes by another small input
    assert not compiled
    assert state(pipe) == before


def test_threads_that_overlap_leave_compiled_networks_as_they_were():
    """The second enters before the first has left, and leaves after it."""
    if not hasattr(torch.compiler, "set_stance"):
        pytest.skip("this version of torch cannot run compiled modules as they are written")
    importlib.import_module("torch._dynamo")  # without which nothing is compiled, and the context does nothing
    compiled = []
    network = torch.compile(lambda x: x + 1, backend=lambda module, inputs: compiled.append(module) or module.forward)
    first, second = as_written(), as_written()
    for context in (first, second):
        context.__enter__()
    first.__exit__(None, None, None)
    network(torch.zeros(1))
    assert not compiled
    second.__exit__(None, None, None)
    network(torch.zeros(1))
    assert compiled


def test_offloaded_and_adapted(log):
    """With the CPU as the executing device, where weights lie on "meta" between two calls; and with LoRA layers."""
    accelerate, peft = pytest.importorskip("accelerate"), pytest.importorskip("peft")
    pipe = used("flux")
    pipe.transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "style")
    assert max(differences(pipe).values()) < 1e-6  # float32
    for part in (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        accelerate.cpu_offload(part, execution_device=torch.device("cpu"), offload_buffers=True)
    before = state(pipe)
    from_pipeline(pipe)
    assert state(pipe) == before
    assert "the family Flux agrees with the pipeline" in log.text


# -- when it runs


def test_once_for_pipelines_of_one_kind(log):
    def checked(pipe):
        log.clear()
        from_pipeline(pipe)
        return len(said(log))

    first, second = build("sd3"), build("sd3")
    assert [checked(first), checked(first), checked(second)] == [1, 0, 0]
    second.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    assert [checked(second), checked(first)] == [1, 0]
    peft = pytest.importorskip("peft")
    first.transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]), "style")
    assert [checked(first), checked(first)] == [1, 0]
    assert checked(typed(second, torch.bfloat16)) == 1


def test_what_is_replaced_later_is_checked_then(log):
    explainer = dpid.Explainer(build("sd3"))
    log.clear()
    explainer.denoiser.family.pipe.scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=2.0)
    explainer.denoiser.refresh()
    assert "the family StableDiffusion3 agrees with the pipeline" in log.text


def test_it_can_be_skipped_by_name(monkeypatch, log):
    pipe = build("flux")
    NetworkDenoiser(wrong(pipe), check=False)
    from_pipeline(pipe, check=False)
    dpid.Explainer(pipe, check=False)
    assert not said(log)
    monkeypatch.setattr("dpid.denoisers.network.family_of", wrong)
    with pytest.raises(ValueError, match=r"^pipe: the family Wrong does not fit this FluxPipeline"):
        dpid.Explainer(pipe)


def test_a_large_model_says_what_it_does(monkeypatch, log):
    monkeypatch.setattr(pipeline, "_LARGE", 1)
    from_pipeline(build("sd3"))
    first, last = said(log)
    assert first == (
        "comparing the family StableDiffusion3 with the pipeline, for two steps of its own; check=False skips this"
    )
    assert last.startswith("the family StableDiffusion3 agrees with the pipeline: time 0e+00, network ")
    assert last.endswith(" s)")


def test_a_network_that_returns_nan_is_not_compared(log):
    pipe = build("sd3")
    pipe.transformer.proj_out.bias.fill_(torch.nan)
    from_pipeline(pipe)
    (told,) = said(log)
    assert told.endswith(
        "was not compared with the pipeline: the network of StableDiffusion3Pipeline returns NaN or infinity"
    )
