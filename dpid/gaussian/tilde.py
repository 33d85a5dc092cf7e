"""Union information of the Gaussian BROJA (~) decomposition, in closed form.

Bertschinger et al. (2014), restricted to Gaussian couplings of the pairs (M, X) and (M, Y): I_∪ = min_q I_q(M; X, Y).
With M ~ N(0, I), a Gaussian channel from M is as informative as its Fisher information matrix J: I = ½ log det(I + J),
and it can be degraded to another one exactly if J exceeds the other's in the Loewner order. Every coupling has
J ⪰ J_X and J ⪰ J_Y. Conversely a channel Z with such a J degrades to X and to Y; with independent noise these form a
coupling, and I(M; X, Y) ≤ I(M; Z). Hence I_∪ = min ½ log det(I + J) over J ⪰ J_X, J_Y. In W = (I + J)⁻¹, a covariance
of M given Z, this is

    I_∪ = -½ max { log det W : W ⪯ Σ_M|X, W ⪯ Σ_M|Y },

the largest ellipsoid within two concentric ones. A basis in which Σ_M|X = I and Σ_M|Y = diag(d) bounds each diagonal
entry of W by min(1, d), and log det W by their product (Hadamard), which diag(min(1, d)) attains. So, with d the
eigenvalues of Σ_M|X⁻¹ Σ_M|Y,

    U_X = ½ Σ log max(d, 1),    U_Y = ½ Σ log max(1/d, 1).
"""

import numpy as np

from dpid.gaussian.channels import Channels


def union(channels: Channels) -> float:
    """I_∪ in nats."""
    # √d are the singular values of Σ_M|Y^½ Σ_M|X^-½: eigenvalues of the product would lose half of the digits.
    noise_x = np.sqrt((1 - channels.rho_x) * (1 + channels.rho_x))
    noise_y = np.sqrt((1 - channels.rho_y) * (1 + channels.rho_y))
    inverse_root_d = np.linalg.svd(noise_x[:, None] * channels.overlap / noise_y, compute_uv=False)
    return channels.information[0] + float(np.log(np.maximum(inverse_root_d, 1.0)).sum())
