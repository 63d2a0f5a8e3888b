"""Chat templates, stop strings and tool-call parsing: pure functions on text."""

from alpage.chat.calls import ToolCall
from alpage.chat.fallback import fallback_template
from alpage.chat.marked import Segment
from alpage.chat.stops import StopStrings
from alpage.chat.template import ChatTemplate
from alpage.chat.tools import (
    ArgumentsDelta,
    ContentDelta,
    ParsedAnswer,
    ToolCallEnd,
    ToolCallStart,
    ToolCallStream,
    ToolEvent,
    parse_tool_calls,
)

__all__ = [
    "ArgumentsDelta",
    "ChatTemplate",
    "ContentDelta",
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
