"""Other systems, measured beside the subject when this machine can have them."""
