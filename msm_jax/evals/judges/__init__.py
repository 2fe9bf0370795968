"""Judges: what turns a transcript into yes, no, or an honest nothing."""
