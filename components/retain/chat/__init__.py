"""Chats, prompts and texts as tokens with an exact loss mask; pure: no files, no torch.

render(tokenizer, shape, payload)      one row → input_ids, labels
Renderer(tokenizer, options)           the same for many rows, encoded in batches
sides(shape, payload)                  the answers of a row that judges answers, each as a row of its own
prompt_ids(tokenizer, shape, payload)  what a model is asked with, in the same template
template_digest(tokenizer, kwargs)     equal digests frame a chat in equal tokens
"""

from retain.chat.options import ChatOptions, RowOptions
from retain.chat.prompts import prompt_ids
from retain.chat.render import Draft, Rendered, Renderer, nothing_supervised, render
from retain.chat.sides import sides
from retain.chat.template import has_template, template_digest

__all__ = [
    "ChatOptions",
    "Draft",
    "Rendered",
    "Renderer",
    "RowOptions",
    "has_template",
    "nothing_supervised",
    "prompt_ids",
    "render",
    "sides",
    "template_digest",
]
