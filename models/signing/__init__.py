"""Signatures of bundles, in the format of OpenSSF's model signing."""
