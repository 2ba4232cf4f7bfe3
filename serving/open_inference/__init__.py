"""The Open Inference Protocol, version 2, under `/v2`: for clients of KServe and Triton."""
