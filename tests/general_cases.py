"""Small problems of a general X, and the errors of sweeps over them."""

import numpy as np
import reference as ref


def small(seed):
    """One shape for every small problem, hence one program."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, 6)), rng.normal(size=3)


def errors(found, X, y, alpha):
    """Of β, relative to its largest entry."""
    betas = found.beta.values.reshape(-1, X.shape[1])
    truth = [ref.general_limit(X, y, e, alpha, rtol=1e-12) for e in found.epsilon.values]
    return np.array(
        [np.max(np.abs(b - t)) / np.max(np.abs(t)) for b, t in zip(betas, truth, strict=True)]
    )
