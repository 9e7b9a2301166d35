"""Write embeddings of a text's tokens by what they stand beside: (K, d) in a .npy file, for NearestNeighborTransition.

    python scripts/cooccurrence.py --source text8 --output letters.npy --window 2
    python scripts/cooccurrence.py --source wikitext2 --tokenizer bpe --vocab-size 8192 --output pieces.npy

In a config: ``embeddings: pieces.npy``. Counts are those of the training split; the options are those of TextData.
"""

import argparse
import sys

import numpy as np
import torch

from d3pm.data import TextData
from d3pm.errors import D3PMError
from d3pm.transitions.cooccurrence import cooccurrence_embeddings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", default="pydoc")
    parser.add_argument("--tokenizer", default="characters")
    parser.add_argument("--vocab-size", type=int)
    parser.add_argument("--normalize", choices=["text8"])
    parser.add_argument("--window", type=int, default=5, help="places that a pair may be apart")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--output", required=True, help="a .npy file")
    args = parser.parse_args()
    try:
        if not args.output.endswith(".npy"):
            raise D3PMError(f"--output {args.output}: end the name in .npy")
        data = TextData(
            args.source, tokenizer=args.tokenizer, vocab_size=args.vocab_size, normalize=args.normalize
        )
        num_states = data.codec.num_symbols
        rows = cooccurrence_embeddings(data.split("train").tokens, num_states, args.window, args.dim)
        np.save(args.output, rows.numpy())
    except (D3PMError, OSError) as error:
        sys.exit(f"cooccurrence.py: {error}")
    print(f"{tuple(rows.shape)} in {args.output}; nearest neighbours of a few:")
    for state in torch.linspace(0, num_states - 1, min(num_states, 12)).long().tolist():
        near = (rows @ rows[state]).topk(min(6, num_states)).indices.tolist()
        shown = [repr(data.codec.decode(torch.tensor([[k]]))[0]) for k in near]
        print(f"  {shown[0]}: {', '.join(shown[1:])}")


if __name__ == "__main__":
    main()
