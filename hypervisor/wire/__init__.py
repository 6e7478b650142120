"""Every message between processes, the mailbox and the hand-over of descriptors."""
