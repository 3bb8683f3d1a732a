"""Sweeps: many limits in one call, in memory, into a durable store, on a cluster.

Data flows one way: arguments → plan → chunks → (store) → dataset. `_manifest`, `_variables` and
`_status` load neither JAX nor Zarr.
"""
