"""The union information of BROJA (Bertschinger et al., 2014) over Gaussian couplings, in closed form.

The couplings are those with the given pairs (M, X) and (M, Y), and I_∪ is the least I(M; X, Y) among them. Every
coupling has a Fisher information matrix J ⪰ J_X and J ⪰ J_Y. Conversely a channel Z with such a J can be degraded to X
and to Y; with independent noises these form a coupling, and I(M; X, Y) ≤ I(M; Z). Hence I_∪ is the least
½ log det(I + J) over J ⪰ J_X, J_Y; with W = (I + J)⁻¹, the covariance of M given Z, that is docs/theory.md, eq. (46),
with the solution of docs/theory.md, eq. (47).
"""

import numpy as np

from dpid.gaussian.channels import Channels


def union(channels: Channels) -> float:
    """The union information I_∪ in nats."""
    # √d are the singular values of Σ_M|Y^½ Σ_M|X^-½: eigenvalues of the product would have half as many digits.
    noise_x = np.sqrt((1 - channels.rho_x) * (1 + channels.rho_x))
    noise_y = np.sqrt((1 - channels.rho_y) * (1 + channels.rho_y))
    inverse_root_d = np.linalg.svd(noise_x[:, None] * channels.overlap / noise_y, compute_uv=False)
    return channels.information[0] + float(np.log(np.maximum(inverse_root_d, 1.0)).sum())
