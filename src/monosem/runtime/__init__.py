"""How work runs on this machine: devices, matrix products, checkpoints, run logs."""
