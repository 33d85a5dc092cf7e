"""What colours look like to people with and without a colour blindness."""

import numpy as np
from matplotlib.colors import to_rgb

BLINDNESS = {  # Machado, Oliveira and Fernandes (2009), severity 1
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def simulated(colour, matrix):
    """A colour as people with a colour blindness see it, in linear light."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return (np.array(matrix) @ linear).clip(0, 1)


def lab(linear):
    """CIELAB of linear sRGB under D65."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(matrix) @ linear / (0.9505, 1, 1.089)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (xyz * 24389 / 27 + 16) / 116)
    return np.array((116 * y - 16, 500 * (x - y), 200 * (y - z)))


def luminance(colour):
    """The relative luminance of WCAG 2.2."""
    return simulated(colour, np.eye(3)) @ (0.2126, 0.7152, 0.0722)
