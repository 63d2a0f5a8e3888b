"""The chat page in the browser: static ES modules without a build step."""
