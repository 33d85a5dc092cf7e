"""From a denoiser to i(x; y_S): which samples, the loop over them, three estimators, and the rounding of their type."""
