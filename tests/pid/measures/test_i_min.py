"""``i_min`` of candidates, compared with that of the distribution they come from."""

from math import log

import numpy as np
import pytest
import torch

from dpid.pid import decompose, discrete


def test_candidates_of_a_distribution_give_its_number():
    """i(x; y) tables and priors of a full-support joint, x as images: the mean over p(x) is Williams & Beer's I_min."""
    joint = np.random.default_rng(3).dirichlet(np.ones(2 * 3 * 4)).reshape(2, 3, 4)
    p_x = joint.sum((0, 1))
    tables = {("a",): joint.sum(1), ("b",): joint.sum(0), ("a", "b"): joint.reshape(6, 4)}
    f = {s: torch.from_numpy(np.log(t / t.sum(1, keepdims=True) / p_x)) for s, t in tables.items()}
    h = {s: torch.from_numpy(-np.log(t.sum(1))) for s, t in tables.items()}
    atoms = decompose(f, "i_min", priors=h)
    expected = discrete(joint, "i_min", unit="nats", concepts=("a", "b"))
    for antichain, value in atoms.items():
        assert float(value @ torch.from_numpy(p_x)) == pytest.approx(float(expected[antichain]), abs=1e-12)
    # By the definition, written out: Σ_x p(x) min over y1, y2 of Σ_y p(y|x) log p(x|y)/p(x).
    specific = [(t / p_x * np.log(t / t.sum(1, keepdims=True) / p_x)).sum(0) for t in list(tables.values())[:2]]
    assert float(expected.redundancy) == pytest.approx(float(p_x @ np.minimum(*specific)), abs=1e-12)


def test_one_candidate_is_the_pointwise_minimum():
    f = {
        ("a",): torch.tensor([[1.0, -2.0]]),
        ("b",): torch.tensor([[0.5, 3.0]]),
        ("a", "b"): torch.tensor([[2.0, 3.5]]),
    }
    assert decompose(f, "i_min", priors="uniform").redundancy.tolist() == [0.5, -2]


def test_refusals():
    f = {("a",): torch.zeros(2), ("b",): torch.zeros(2), ("a", "b"): torch.zeros(4)}
    with pytest.raises(ValueError, match="priors: found None"):
        decompose(f, "i_min")
    with pytest.raises(ValueError, match=r"sum to 1\.2, expected 1"):
        decompose(f, "i_min", priors={s: torch.full((len(v),), -log(1.2 / len(v))) for s, v in f.items()})
    with pytest.raises(ValueError, match=r"priors: found shape \(3,\), expected \(2,\)"):
        decompose(f, "i_min", priors={s: torch.full((3,), log(3)) for s in f})
    with pytest.raises(ValueError, match="information: found a number"):
        decompose({("a",): 1.0}, "i_min", priors="uniform")
    with pytest.raises(ValueError, match="priors: found 'mlm:x'"):
        decompose(f, "i_min", priors="mlm:x")
