"""Texts that are alike: found, kept from being told apart, and kept out of what is measured."""
