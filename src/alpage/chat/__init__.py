"""Chat templates, stop strings and tool-call parsing: pure functions on text."""

from alpage.chat.fallback import fallback_template
from alpage.chat.marked import Segment
from alpage.chat.stops import StopStrings
from alpage.chat.template import ChatTemplate, split_special

__all__ = ["ChatTemplate", "Segment", "StopStrings", "fallback_template", "split_special"]
