"""Estimates i(x; y_S) with a denoiser: sampling of log-SNRs, the loop over samples, estimators, rounding."""
