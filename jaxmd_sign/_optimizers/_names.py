"""Optimisers by name, as the command line knows them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from ._transform import smoothed_sign


class Named(NamedTuple):
    """How to make an optimiser, and which of our options are which of its arguments."""

    make: Callable[..., optax.GradientTransformation]
    options: dict[str, str]


_ADAM = {"b1": "b1", "b2": "b2", "epsilon": "eps", "eps_root": "eps_root"}

OPTIMIZERS: dict[str, Named] = {
    "smoothed_sign": Named(smoothed_sign, {"epsilon": "epsilon", "smoothing": "smoothing"}),
    "sign": Named(optax.sign_sgd, {}),
    "sgd": Named(optax.sgd, {"momentum": "momentum"}),
    "adam": Named(optax.adam, _ADAM),
    "rmsprop": Named(
        optax.rmsprop,
        {
            "decay": "decay",
            "epsilon": "eps",
            "eps_in_sqrt": "eps_in_sqrt",
            "bias_correction": "bias_correction",
            "momentum": "momentum",
        },
    ),
    "adabelief": Named(optax.adabelief, _ADAM),
    "lion": Named(optax.lion, {"b1": "b1", "b2": "b2", "weight_decay": "weight_decay"}),
    "adamw": Named(optax.adamw, _ADAM | {"weight_decay": "weight_decay"}),
}

_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "epsilon": ("positive and finite", lambda x: 0 < x < float("inf")),
    "eps_root": ("at least 0 and finite", lambda x: 0 <= x < float("inf")),
    "weight_decay": ("at least 0 and finite", lambda x: 0 <= x < float("inf")),
    "b1": ("from 0 to less than 1", lambda x: 0 <= x < 1),
    "b2": ("from 0 to less than 1", lambda x: 0 <= x < 1),
    "decay": ("from 0 to less than 1", lambda x: 0 <= x < 1),
    "momentum": ("from 0 to less than 1", lambda x: 0 <= x < 1),
}


def make_optimizer(name: str, learning_rate: Any, **options: Any) -> optax.GradientTransformation:
    """An optimiser by name; an option that is None is left to optax, one it has not is refused."""
    if name not in OPTIMIZERS:
        names = ", ".join(OPTIMIZERS)
        raise ValueError(f"optimizer must be one of {names}, but is {name!r}.")
    named = OPTIMIZERS[name]
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in given.items():
        if key not in named.options:
            known = ", ".join(named.options) or "no option but learning_rate"
            raise ValueError(f"{key}: {name} has no such option; it takes {known}.")
        if key in _RANGES and isinstance(value, (int, float)) and not _RANGES[key][1](value):
            raise ValueError(f"{key} must be {_RANGES[key][0]}, but is {value}.")
    if name == "smoothed_sign" and "epsilon" not in given:
        raise ValueError("epsilon: smoothed_sign needs a number > 0.")
    if isinstance(learning_rate, (int, float)) and not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be positive and finite, but is {learning_rate}.")
    return named.make(learning_rate, **{named.options[key]: value for key, value in given.items()})
