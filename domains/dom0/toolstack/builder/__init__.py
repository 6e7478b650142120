"""From a kernel to a domain that can start: what libxenguest does for xl."""
