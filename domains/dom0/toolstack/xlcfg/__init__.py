"""xl.cfg(5): `syntax` turns text into settings, `schema` knows the keys, `model` is the result."""
