"""An example plug-in of igpo: a sampler that flips coins and a verifier that counts them."""
