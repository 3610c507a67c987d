"""The fast path in the kernel: eBPF on a VXLAN device (docs/fastdp.md)."""
