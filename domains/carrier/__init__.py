"""What carries a migration from one machine to another: the words between them, and the process that holds the network's end."""
