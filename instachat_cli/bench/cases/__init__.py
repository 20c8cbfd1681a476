"""The benchmarks, one module each. No case imports another; what two of them need is in `harness`."""
