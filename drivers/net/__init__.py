"""The network device: netfront, netback, and the bridge behind it."""
