"""Ports for processes that must find each other."""

import socket


def free_port():
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return str(taken.getsockname()[1])
