"""Buffers of transitions and the samplers that draw training batches from them."""
