"""From variants.yaml to what each rule depends on. Pure."""
