"""The page itself, in gradio: fields on the left, samples and the way to them on the right.

Nothing is loaded from anywhere but the server itself, and nothing is reported to anybody.
"""

from __future__ import annotations

import html
import importlib.util
import math
import os
from typing import Any

from d3pm.demo.serving import samplers_of
from d3pm.demo.shown import STYLE, Shown, Texts, shown_of
from d3pm.demo.trajectory import Trajectory
from d3pm.demo.wish import ANY, IN_TURN, Reader, Wish, classes, fulfil, masks
from d3pm.errors import ConfigError, D3PMError
from d3pm.model import DiffusionModel
from d3pm.sampling import Sampler

STEPS = 64
"""Steps that are offered, if the process has as many and the sampler is not used to fewer."""
MOST = 64
"""Pictures at a time."""


def serve(
    model: DiffusionModel,
    title: str,
    read: Reader,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
) -> Any:
    """Serve the page in threads of their own, and return at once.

    Args:
        model: What is drawn from.
        title: Of the page.
        read: Reads prompts.
        host: Address to listen at.
        port: Port to listen at.
        share: Also ask gradio's public relay for an address that anybody can reach.

    Returns:
        The page: its ``local_url`` and ``share_url``, ``close()`` and ``block_thread()``.

    Raises:
        ConfigError: If gradio is missing, the samples cannot be shown, or the port is taken.
    """
    gr = need_gradio()
    blocks = page(model, title, read)
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            footer_links=[],
            css=STYLE,
            theme=gr.themes.Default(
                font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
            ),
        )
    except OSError as error:
        raise ConfigError(
            f"--port {port} cannot be listened at on {host}: it is taken or not this machine's; give another"
        ) from error
    return blocks


def need_gradio() -> Any:
    """The library, told to report nothing.

    Raises:
        ConfigError: If it is not installed; the message says how to.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("the demo needs gradio, which is not installed: pip install 'd3pm[demo]'")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    import gradio

    return gradio


def page(model: DiffusionModel, title: str, read: Reader) -> Any:
    """The page, not served yet.

    Raises:
        ConfigError: If the samples cannot be shown.
    """
    gr = need_gradio()
    shown, samplers = shown_of(model), samplers_of(model.process, model.shape)
    with gr.Blocks(title=f"d3pm: {title}", analytics_enabled=False) as blocks:
        gr.HTML(f"<h2>{html.escape(title)}</h2>", elem_id="title")
        with gr.Row():
            with gr.Column(scale=2):
                fields = _fields(gr, model, shown, samplers)
                button = gr.Button("Sample", variant="primary", elem_id="sample")
            with gr.Column(scale=3):
                way = gr.State()
                result = gr.Textbox(
                    label="Text", lines=3, buttons=["copy"], elem_id="result", visible=_reads(shown)
                )
                cost = gr.Markdown(elem_id="cost")
                moment = gr.Slider(
                    0, 1, step=1, label="On the way", info=shown.legend, visible=False, elem_id="moment"
                )
                time = gr.Markdown(elem_id="time")
                frame = gr.HTML(elem_id="frame")

        def draw(*values: Any, progress: Any = gr.Progress()) -> dict[Any, Any]:  # noqa: B008 (gradio fills it in)
            named = dict(zip(fields, values, strict=True))
            try:
                wish = Wish(**named | {"sampler": samplers[named["sampler"]]})
                trajectory = fulfil(model, wish, read, progress)
            except D3PMError as error:
                raise gr.Error(html.escape(said(error)), print_exception=False) from error
            last = len(trajectory) - 1
            slider = gr.Slider(maximum=last, value=last, visible=True)
            return {way: trajectory, cost: trajectory.cost(), moment: slider, **look(trajectory, last)} | (
                {result: "\n".join(shown.codec.decode(trajectory.x0))} if _reads(shown) else {}
            )

        def look(trajectory: Trajectory, position: float) -> dict[Any, Any]:
            index = int(position)
            return {
                time: f"t = {trajectory.times[index]:g} of {trajectory.times[0]:g}",
                frame: shown.frame(trajectory, index),
            }

        everything = [way, result, cost, moment, time, frame]
        starts = [button.click] + ([fields["prompt"].submit] if "prompt" in fields else [])
        for start in starts:
            start(draw, list(fields.values()), everything, show_progress_on=frame, api_visibility="private")
        moment.input(
            look,
            [way, moment],
            [time, frame],
            show_progress="hidden",
            trigger_mode="always_last",
            queue=False,
            api_visibility="private",
        )
        fields["sampler"].input(
            lambda name: offered(samplers[name], model),
            fields["sampler"],
            fields["steps"],
            queue=False,
            api_visibility="private",
        )
    return blocks


def _fields(gr: Any, model: DiffusionModel, shown: Shown, samplers: dict[str, Sampler]) -> dict[str, Any]:
    """The fields of a :class:`Wish` that this model has, in the order they are shown in."""
    first, num_steps = next(iter(samplers)), model.process.num_steps
    made = {
        **(_prompt(gr, model, shown) if _reads(shown) else {}),
        **(_label(gr, classes(model)) if classes(model) else {}),
        "sampler": gr.Dropdown(list(samplers), value=first, label="Sampler", elem_id="sampler"),
        "steps": gr.Slider(
            1,
            num_steps,
            value=offered(samplers[first], model),
            step=1,
            label="Steps",
            elem_id="steps",
        ),
    }
    if _reads(shown):
        made["temperature"] = gr.Slider(
            0.1, 2, value=1, step=0.05, label="Temperature", info="below 1: likelier symbols"
        )
    else:
        made["num"] = gr.Slider(1, MOST, value=16, step=1, label="Pictures", elem_id="num")
    return made | {"seed": gr.Number(value=0, precision=0, label="Seed", elem_id="seed")}


def _prompt(gr: Any, model: DiffusionModel, shown: Shown) -> dict[str, Any]:
    sign = getattr(shown.codec, "mask_sign", "_")
    info = f"{sign} is a blank, and so is all that follows. A text has {model.shape[0]} symbols."
    made = {"prompt": gr.Textbox(label="Prompt", info=info, lines=2, elem_id="prompt")}
    if masks(model):
        made["prompt_guidance"] = gr.Slider(
            0, 4, value=1, step=0.1, label="Guidance to the prompt", info="1: plain infilling"
        )
    return made


def _label(gr: Any, num: int) -> dict[str, Any]:
    choices = [(str(choice), choice) for choice in (IN_TURN, ANY, *range(num))]
    return {
        "label": gr.Dropdown(choices, value=IN_TURN, label="Label", elem_id="label"),
        "guidance": gr.Slider(0, 8, value=1, step=0.1, label="Guidance", info="above 1: exaggerated"),
    }


def offered(sampler: Sampler, model: DiffusionModel) -> int:
    """How many steps the page starts with; a sampler that is used to a single one takes as many as there are to see."""
    usual = sampler.default_steps(model.process)
    return min(math.prod(model.shape) if usual == 1 else usual, STEPS, model.process.num_steps)


def said(error: D3PMError) -> str:
    """What went wrong, on one line, without the dashes that the command line writes before names."""
    return " ".join(str(error).split()).removeprefix("--")


def _reads(shown: Shown) -> bool:
    return isinstance(shown, Texts)
