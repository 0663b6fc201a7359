"""How tables lie on disk: bundles, manifests, atomic commits."""
