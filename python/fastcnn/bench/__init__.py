"""Benchmarks: what this machine can do, how fast fastcnn is on it, and, where PyTorch is installed, against PyTorch.

``fastcnn bench`` is the command; machine, pairing, layers, nets, memory and report are its parts. Both sides run in one
process on the same numbers, in interleaved pairs, and their results are compared before any time is taken.
PyTorch is imported only by torch_peer and torch_nets, and only when a comparison is asked for.
"""
