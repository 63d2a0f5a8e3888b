"""Chat templates, stop strings and tool-call parsing: pure functions on text."""

from typing import TYPE_CHECKING

from alpage.chat.calls import ToolCall
from alpage.chat.fallback import fallback_template
from alpage.chat.marked import Segment
from alpage.chat.stops import StopStrings
from alpage.chat.tools import (
    ArgumentsDelta,
    ContentDelta,
    Notation,
    ParsedAnswer,
    ToolCallEnd,
    ToolCallStart,
    ToolCallStream,
    ToolEvent,
    parse_tool_calls,
)
from alpage.core.later import later

if TYPE_CHECKING:
    from alpage.chat.template import ChatTemplate

__all__ = [
    "ArgumentsDelta",
    "ChatTemplate",
    "ContentDelta",
    "Notation",
    "ParsedAnswer",
    "Segment",
    "StopStrings",
    "ToolCall",
    "ToolCallEnd",
    "ToolCallStart",
    "ToolCallStream",
    "ToolEvent",
    "fallback_template",
    "parse_tool_calls",
]

__getattr__ = later(__name__, {"ChatTemplate": "template"})  # jinja2, which no plain text needs
