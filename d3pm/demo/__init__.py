"""A page in the browser: ask a trained model for samples, and look at how each came about.

What is drawn and shown is decided without a browser (:mod:`~d3pm.demo.wish`, :mod:`~d3pm.demo.trajectory`,
:mod:`~d3pm.demo.shown`); the page around it (:mod:`~d3pm.demo.page`) alone needs gradio.
"""

from d3pm.demo.page import need_gradio, serve
from d3pm.demo.serving import samplers_of
from d3pm.demo.shown import Shown, shown_of
from d3pm.demo.trajectory import Trajectory, follow
from d3pm.demo.wish import Wish, fulfil

__all__ = [
    "Shown",
    "Trajectory",
    "Wish",
    "follow",
    "fulfil",
    "need_gradio",
    "samplers_of",
    "serve",
    "shown_of",
]
