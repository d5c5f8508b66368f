"""Where result bytes live: one module per kind of storage, each a `Vault` of `router.world`."""
