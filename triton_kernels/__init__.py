"""Triton kernels of dpid, installed as ``dpid.triton_kernels``; one op a file."""

if __name__ == "triton_kernels":
    # OpenAI's Triton project publishes a package of exactly this name, which other libraries probe for.
    raise ImportError("this folder is dpid's source tree, not OpenAI's triton_kernels; import dpid.triton_kernels")
