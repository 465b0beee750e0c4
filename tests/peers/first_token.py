"""`python -m tests.peers.first_token MODEL [options of slotwise serve]`: loads the model and samples one token.
`steps.py` measures how long that takes from the start of the interpreter."""

from app.arguments import Parser, add_options, read_settings
from app.settings import ServeSettings
from model.batch import Batch, Chunk, GrownSlot, OpenedSlot, SamplingParams
from model.load import LoadedModel, load


def load_as_asked(parser: Parser) -> LoadedModel:
    add_options(parser, ServeSettings)
    arguments, unknown = parser.parse_known_args()
    return load(read_settings(parser, ServeSettings, vars(arguments), unknown).load_options())


def main() -> None:
    loaded = load_as_asked(Parser(prog="python -m tests.peers.first_token", description=__doc__))
    prompt = tuple(loaded.tokenizer.encode("The sky is", add_special_tokens=False))
    opened = OpenedSlot(0, 1, len(prompt), SamplingParams(temperature=0.0))
    output = loaded.runner.run(Batch(opened=(opened,), grown=(GrownSlot(0, (0,)),), chunks=(Chunk(0, prompt),)))
    assert output.results[0].token_id is not None


if __name__ == "__main__":
    main()
