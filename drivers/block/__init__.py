"""The block device: blkfront and blkback."""
