"""The toolstack: domain descriptions in, running domains out. What libxl and libxenguest do on a Xen host."""
