"""Work for other threads, which know nothing of a setting of JAX made by a `with` in this one."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
T = TypeVar("T")


def as_here(function: Callable[P, T]) -> Callable[P, T]:
    """`function` for another thread to call, with the precision and the device of this one."""
    config = jax.config
    x64 = config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    device = config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]

    def there(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.enable_x64(x64), jax.default_device(device):
            return function(*args, **kwargs)

    return there
