"""The diffusion process and its training losses (Nichol & Dhariwal 2021; Dhariwal & Nichol 2021, section 2).

Tables are float64; what is taken from them is cast to the dtype of the images only then, since 1 - abar loses its
digits in float32 at small t.
"""
import math

import numpy as np
import torch

LN2 = math.log(2.0)


def betas(schedule, steps):
    if schedule == "linear":
        scale = 1000 / steps
        return np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)
    if schedule == "cosine":
        level = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - level[1:] / level[:-1], 0.999)
    raise ValueError(f"schedule should be linear or cosine, found {schedule!r}")


def evenly(steps, count):
    """`count` of `steps` timesteps, first and last included, as guided-diffusion spaces one section.

    The position is a running float sum, rounded half to even: the original's own arithmetic.
    """
    stride = (steps - 1) / (count - 1) if count > 1 else 1
    taken, position = [], 0.0
    for _ in range(count):
        taken.append(round(position))
        position += stride
    return taken


def strided(steps, count):
    """`count` of `steps` timesteps, 0 and every whole stride above it: guided-diffusion's "ddimN"."""
    for stride in range(1, steps):
        taken = list(range(0, steps, stride))
        if len(taken) == count:
            return taken
    raise ValueError(f"no whole stride takes {count} of {steps} timesteps")


class Diffusion:
    """q(x_t | x_0), its posterior, the losses of a model of it, and DDIM.

    variance: learned_range, fixed_small or fixed_large; mean: epsilon or start_x;
    loss: mse, rescaled_mse (the hybrid loss of a learned variance), kl or rescaled_kl;
    spacing: a number of timesteps, or "ddim" and a number.
    """

    def __init__(self, steps=1000, schedule="linear", variance="learned_range", mean="epsilon", loss="rescaled_mse",
                 rescale_timesteps=False, spacing=None):
        self.variance, self.mean, self.loss = variance, mean, loss
        self._moved = {}
        if spacing is None:
            taken = list(range(steps))
        elif str(spacing).startswith("ddim"):
            taken = strided(steps, int(spacing[4:]))
        else:
            taken = evenly(steps, int(spacing))
        abar = np.cumprod(1 - betas(schedule, steps))[taken]
        previous = np.append(1.0, abar[:-1])
        beta = 1 - abar / previous
        self.steps = len(taken)
        self.timestep_map = np.array(taken) * (1000 / steps if rescale_timesteps else 1)
        self.sqrt_abar = np.sqrt(abar)
        self.sqrt_abar_previous = np.sqrt(previous)
        self.sqrt_one_minus_abar_previous = np.sqrt(1 - previous)
        self.sqrt_one_minus_abar = np.sqrt(1 - abar)
        self.sqrt_recip_abar = np.sqrt(1 / abar)
        self.sqrt_recipm1_abar = np.sqrt(1 / abar - 1)
        posterior = beta * (1 - previous) / (1 - abar)
        self.posterior_log_variance = np.log(np.append(posterior[1], posterior[1:]))
        self.posterior_start = beta * np.sqrt(previous) / (1 - abar)
        self.posterior_x = (1 - previous) * np.sqrt(1 - beta) / (1 - abar)
        self.log_beta = np.log(beta)
        self.fixed_large = np.log(np.append(posterior[1], beta[1:]))

    def _at(self, table, t, like):
        """Entries of a table at [N] timesteps, to be broadcast over images."""
        key = id(table), t.device
        if key not in self._moved:
            self._moved[key] = torch.from_numpy(table).to(t.device)
        return self._moved[key][t].to(like.dtype).reshape(-1, *[1] * (like.dim() - 1))

    def model_timesteps(self, t):
        return torch.from_numpy(self.timestep_map).to(t.device)[t]

    def noised(self, x_start, t, noise):
        """A draw of q(x_t | x_0)."""
        return self._at(self.sqrt_abar, t, x_start) * x_start + self._at(self.sqrt_one_minus_abar, t, x_start) * noise

    def _posterior(self, x_start, x, t):
        mean = self._at(self.posterior_start, t, x) * x_start + self._at(self.posterior_x, t, x) * x
        return mean, self._at(self.posterior_log_variance, t, x)

    def _predicted(self, output, x, t):
        """Mean and log variance of p(x_{t-1} | x_t) from the model's output; x_0 is not clipped while training."""
        c = x.shape[1]
        prediction = output[:, :c]
        if self.variance == "learned_range":
            share = (output[:, c:] + 1) / 2
            low, high = self._at(self.posterior_log_variance, t, x), self._at(self.log_beta, t, x)
            log_variance = share * high + (1 - share) * low
        else:
            table = self.posterior_log_variance if self.variance == "fixed_small" else self.fixed_large
            log_variance = self._at(table, t, x).expand_as(x)
        if self.mean == "epsilon":
            start = self._at(self.sqrt_recip_abar, t, x) * x - self._at(self.sqrt_recipm1_abar, t, x) * prediction
        else:
            start = prediction
        return self._posterior(start, x, t)[0], log_variance

    def bound(self, output, x_start, x, t):
        """One term of the variational bound in bits per dimension, [N]: KL, or at t = 0 the decoder's likelihood."""
        true_mean, true_log_variance = self._posterior(x_start, x, t)
        mean, log_variance = self._predicted(output, x, t)
        kl = 0.5 * (log_variance - true_log_variance - 1 + torch.exp(true_log_variance - log_variance)
                    + (true_mean - mean) ** 2 * torch.exp(-log_variance))
        decoder = -discretized_log_likelihood(x_start, mean, 0.5 * log_variance)
        return torch.where(t == 0, decoder.flatten(1).mean(1), kl.flatten(1).mean(1)) / LN2

    def losses(self, model, x_start, t, noise, labels=None):
        """-> {"loss", and where they exist "mse", "vb"}, each [N]."""
        x = self.noised(x_start, t, noise)
        output = model(x, self.model_timesteps(t), labels).to(x_start.dtype)
        if self.loss in ("kl", "rescaled_kl"):
            bound = self.bound(output, x_start, x, t)
            return {"loss": bound * self.steps if self.loss == "rescaled_kl" else bound}
        c = x.shape[1]
        target = noise if self.mean == "epsilon" else x_start
        terms = {"mse": ((target - output[:, :c]) ** 2).flatten(1).mean(1)}
        terms["loss"] = terms["mse"]
        if self.variance == "learned_range":
            # The bound trains the variance only; its gradient would disturb the mean.
            frozen = torch.cat([output[:, :c].detach(), output[:, c:]], dim=1)
            terms["vb"] = self.bound(frozen, x_start, x, t)
            if self.loss == "rescaled_mse":
                terms["vb"] = terms["vb"] * (self.steps / 1000)
            terms["loss"] = terms["mse"] + terms["vb"]
        return terms

    def ddim(self, model, x, labels=None):
        """From x_T [N, C, H, W] to x_0 without noise (Song et al. 2021), for a model that predicts the noise.

        Yields {"sample", "pred_xstart", "model_output"} after each step; the predicted x_0 is clipped to [-1, 1].
        """
        for step in reversed(range(self.steps)):
            t = torch.full((len(x),), step, device=x.device)
            output = model(x, self.model_timesteps(t), labels).to(x.dtype)
            recip, recipm1 = self._at(self.sqrt_recip_abar, t, x), self._at(self.sqrt_recipm1_abar, t, x)
            start = (recip * x - recipm1 * output[:, :x.shape[1]]).clamp(-1, 1)
            noise = (recip * x - start) / recipm1
            x = (self._at(self.sqrt_abar_previous, t, x) * start
                 + self._at(self.sqrt_one_minus_abar_previous, t, x) * noise)
            yield {"sample": x, "pred_xstart": start, "model_output": output}


def normal_cdf(x):
    """The tanh approximation, as in the original: the recorded losses depend on it."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def discretized_log_likelihood(x, mean, log_scale):
    """log of a Gaussian's weight in the bin of each 8-bit value; the outermost bins reach to infinity."""
    centred, inverse = x - mean, torch.exp(-log_scale)
    upper = normal_cdf(inverse * (centred + 1 / 255))
    lower = normal_cdf(inverse * (centred - 1 / 255))
    inner = torch.where(x > 0.999, 1 - lower, upper - lower)
    return torch.where(x < -0.999, upper, inner).clamp(min=1e-12).log()
