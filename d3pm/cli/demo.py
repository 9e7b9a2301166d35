"""``d3pm demo RUN``: a page in the browser that draws samples and shows how they come about."""

from collections.abc import Sequence

from d3pm.cli.model import load_generator
from d3pm.cli.parser import Parser
from d3pm.cli.prompt import blanks
from d3pm.errors import ConfigError

DESCRIPTION = """Serve a small web page for a model of text or pictures: fill in blanks, choose a sampler, its
steps and a seed, and look at the states on the way from noise to the sample.

  d3pm demo runs/first
  d3pm demo runs/mnist --port 8000

RUN is the folder of a run or one of its checkpoints. The page needs gradio (pip install 'd3pm[demo]'), works without
a connection, and is seen on this machine only, unless --host 0.0.0.0 opens it to the local network or --share true
to everybody, through gradio's relay."""

LAST_PORT = 65535


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    from d3pm.demo import need_gradio, serve

    parser = Parser(prog="d3pm demo", description=DESCRIPTION)
    parser.add_argument("run", metavar="RUN", type=str, help="folder of a run, or one of its checkpoints")
    parser.add_argument("--port", type=int, default=7860, help="where the page is served")
    parser.add_argument("--host", type=str, default="127.0.0.1", help="address to listen at")
    parser.add_argument("--share", type=bool, default=False, help="ask for a public address, too")
    config = parser.parse_args(argv)
    if not 1 <= config.port <= LAST_PORT:
        raise ConfigError(f"--port is {config.port}: give one of 1 … {LAST_PORT}")
    need_gradio()
    model, home = load_generator(config.run)
    page = serve(model, home.resolve().name, blanks, host=config.host, port=config.port, share=config.share)
    print("\n".join(filter(None, (page.local_url, page.share_url))), "(Ctrl-C ends it)", flush=True)
    page.block_thread()
    return 0
