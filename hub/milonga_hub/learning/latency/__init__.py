"""Latency of any network on a device, from few measurements there and all those taken elsewhere.

A Gaussian process over networks. Other devices say what its prior is: their mean is the trend, and how they deviate from
it is how a new device may. What they do not know comes from costs (MACs, activations and the like, which act as further
devices) and from structure (which choices a network makes, and how much each adds on known devices: a new one may take
more or less for it). Latencies add up over layers, but errors are relative, so the process is held in two domains: of
latency over its mean, and of its logarithm.

Nobody knows the weights of these parts beforehand. Some hundred sets of them are drawn; each is scored by how well it
would have predicted every known family of devices from the others, then by the evidence of what was measured on the new
device, and predictions are averaged over all sets by these scores (Bayesian model averaging, Hoeting et al. 1999).
"""

from milonga_hub.learning.latency.model import LatencyModel, Prediction, Quality, choose, chosen, fit, fitted
from milonga_hub.learning.latency.prior import Prior

__all__ = ["LatencyModel", "Prediction", "Prior", "Quality", "choose", "chosen", "fit", "fitted"]
