"""The control protocol between xenctl and Dom0's toolstack: its words, the client's end and the server's end."""
