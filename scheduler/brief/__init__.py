"""The brief: NOTES.md, a page that tells whoever is asked for an idea all there is to know of a lab."""

from scheduler.brief.facts import BriefFacts, read_brief_facts
from scheduler.brief.text import LONGEST_LINE, MOST_LINES, write_brief

__all__ = ["LONGEST_LINE", "MOST_LINES", "BriefFacts", "read_brief_facts", "write_brief"]
