"""The part of the ground floor that speaks torch: random streams on tensors and tensor views."""
