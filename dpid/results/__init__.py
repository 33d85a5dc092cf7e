"""The result of an explanation: numbers with standard errors, maps, profiles over log-SNR, plots, file format."""
