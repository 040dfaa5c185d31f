"""The client side of the worker protocol: models that run in other processes, behind inference's interfaces."""
