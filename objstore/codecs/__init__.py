"""Codecs turn objects into bytes and back.  `base` is the contract; each other file is one codec."""
