"""Triton kernels of dpid's ops, one op a file; installed as ``dpid.triton_kernels``."""

if __name__ == "triton_kernels":
    # OpenAI's Triton project publishes a package of exactly this name, which other libraries probe for.
    raise ImportError("this folder is dpid's source tree, not OpenAI's triton_kernels; import dpid.triton_kernels")
