"""The local page of `smalti serve`; needs the extra `smalti[page]`."""
