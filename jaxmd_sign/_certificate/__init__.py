"""The certificate: every claim of the source on a case, with its margin."""
