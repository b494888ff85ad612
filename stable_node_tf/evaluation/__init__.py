"""Accuracy under attack, and checks that the attacks are sane."""
