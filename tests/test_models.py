"""Models: shapes, sharing, what is in a state dict, and the mixin on a decoder of another kind."""

import pytest
import torch
from factory import FakeTask, make_batch, make_dictionary, make_model, make_rows
from fairseq.models import ARCH_MODEL_REGISTRY

from fairseq_contout.models.continuous_output import ContinuousDecoder, ContinuousOutput
from fairseq_contout.target_table import TargetTable

LSTM = dict(
    encoder_embed_dim=16, decoder_embed_dim=16, encoder_hidden_size=12, decoder_hidden_size=12,
    decoder_out_embed_dim=12, encoder_bidirectional=False,
)  # fmt: skip


@pytest.fixture
def dictionary():
    return make_dictionary()


def build(tmp_path, dictionary, kind, **options):
    if kind == "lstm":
        return make_model(tmp_path, dictionary, arch="continuous_lstm", **LSTM, **options)
    return make_model(tmp_path, dictionary, **options)


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_predictions_are_vectors_of_the_table(kind, tmp_path, dictionary):
    model, sample = build(tmp_path, dictionary, kind, dim=9), make_batch(dictionary)
    model.eval()
    output = model(**sample["net_input"])
    assert output[0].shape == sample["target"].shape + (9,)
    lprobs = model.get_normalized_probs(output, log_probs=True)
    assert lprobs.shape == sample["target"].shape + (len(dictionary),)
    torch.testing.assert_close(lprobs.exp().sum(dim=-1), torch.ones(sample["target"].shape))
    torch.testing.assert_close(model.get_normalized_probs(output, log_probs=False), lprobs.exp())


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_nothing_that_is_learned_grows_with_the_output_vocabulary(kind, tmp_path):
    dictionary = make_dictionary(97)
    model = build(tmp_path, dictionary, kind, decoder_input="table")
    learned = {n: p.shape for n, p in model.decoder.named_parameters() if p.requires_grad}
    assert learned and all(len(dictionary) not in shape for shape in learned.values()), learned
    assert not model.decoder.continuous_output.table.weight.requires_grad


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_state_dict_holds_the_table_once(kind, tmp_path, dictionary):
    model = build(tmp_path, dictionary, kind, decoder_input="table")
    tables = [n for n, t in model.state_dict().items() if t.shape == (len(dictionary), 8)]
    assert tables == ["decoder.continuous_output.table.weight"]
    other = build(tmp_path, dictionary, kind, decoder_input="table")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(model.state_dict(), strict=True)
    sample = make_batch(dictionary)
    torch.testing.assert_close(
        other.eval()(**sample["net_input"])[0], model.eval()(**sample["net_input"])[0]
    )


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_decoder_input_from_the_table(kind, tmp_path, dictionary):
    model = build(tmp_path, dictionary, kind, decoder_input="table")
    embedding = model.decoder.embed_tokens
    tokens = torch.tensor([[5, 6, dictionary.pad()]])
    rows = model.decoder.continuous_output.table.weight[tokens]
    expected = rows @ embedding.projection.weight.t()
    torch.testing.assert_close(embedding(tokens)[:, :2], expected[:, :2])
    assert embedding(tokens)[:, 2].eq(0).all()
    # a row changed in the table is read by the decoder, too
    model.decoder.continuous_output.table.weight[5] *= -1
    torch.testing.assert_close(embedding(tokens)[:, 0], -expected[:, 0])


def test_decoder_input_of_the_encoder(tmp_path, dictionary):
    model = build(tmp_path, dictionary, "transformer", decoder_input="encoder")
    assert model.decoder.embed_tokens is model.encoder.embed_tokens
    with pytest.raises(ValueError, match="--decoder-input encoder needs one dictionary"):
        build(tmp_path, dictionary, "transformer", decoder_input="encoder", decoder_embed_dim=32)


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
@pytest.mark.parametrize("flag", ["share_all_embeddings", "share_decoder_input_output_embed"])
def test_sharing_with_the_output_is_refused(kind, flag, tmp_path, dictionary):
    with pytest.raises(ValueError, match=f"--{flag.replace('_', '-')}.*--decoder-input table"):
        build(tmp_path, dictionary, kind, **{flag: True})


def test_table_is_needed_to_train_and_not_to_load(tmp_path, dictionary):
    with pytest.raises(ValueError, match="--target-table must name the table"):
        make_model_without_table(dictionary)
    model = build(tmp_path, dictionary, "transformer")
    (tmp_path / "table8.safetensors").unlink()
    again = ARCH_MODEL_REGISTRY["continuous_transformer_tiny"].build_model(
        model_args(model, tmp_path), FakeTask(dictionary)
    )
    again.load_state_dict(model.state_dict())
    assert torch.equal(
        again.decoder.continuous_output.table.weight, model.decoder.continuous_output.table.weight
    )


def model_args(model, tmp_path):
    """Arguments as a checkpoint keeps them: those of the model, after it was built."""
    from argparse import Namespace

    from fairseq.models import ARCH_CONFIG_REGISTRY

    args = Namespace(
        arch="continuous_transformer_tiny",
        criterion="cosine",
        target_table=str(tmp_path / "table8.safetensors"),
        built_table=[str(tmp_path / "table8.safetensors"), 8],
        dropout=0.0,
    )
    ARCH_CONFIG_REGISTRY[args.arch](args)
    return args


def make_model_without_table(dictionary):
    from argparse import Namespace

    from fairseq.models import ARCH_CONFIG_REGISTRY

    args = Namespace(arch="continuous_transformer_tiny", criterion="cosine")
    ARCH_CONFIG_REGISTRY[args.arch](args)
    return ARCH_MODEL_REGISTRY[args.arch].build_model(args, FakeTask(dictionary))


def test_checkpoint_with_another_table_file_is_refused(tmp_path, dictionary):
    args = model_args(build(tmp_path, dictionary, "transformer"), tmp_path)
    args.target_table = "other.safetensors"
    with pytest.raises(ValueError, match="--model-overrides asks for other.safetensors"):
        ARCH_MODEL_REGISTRY[args.arch].build_model(args, FakeTask(dictionary))


def test_softmax_criterion_is_refused(tmp_path, dictionary):
    with pytest.raises(
        ValueError, match="needs one of the criterions contrastive, cosine, hybrid, l2, margin"
    ):
        make_model(tmp_path, dictionary, criterion="cross_entropy")


def test_mixin_works_on_any_fairseq_decoder(dictionary):
    """fairseq's convolutional decoder, which has nothing in common with ours but the interface."""
    from fairseq.models.fconv import FConvDecoder, FConvEncoder

    class ContinuousFConvDecoder(ContinuousDecoder, FConvDecoder):
        def output_layer(self, features, **kwargs):
            return self.continuous_output(features)

    torch.manual_seed(0)
    encoder = FConvEncoder(dictionary, embed_dim=8, convolutions=((8, 3),), dropout=0.0)
    decoder = ContinuousFConvDecoder(
        dictionary, embed_dim=8, out_embed_dim=6, convolutions=((8, 3),), dropout=0.0
    )
    encoder.num_attention_layers = sum(layer is not None for layer in decoder.attention)
    # fairseq's forward ends in a fully connected layer over the vocabulary: take it away
    table = TargetTable(make_rows(dictionary, 6), dictionary, "cosine")
    decoder.fc3 = torch.nn.Identity()
    inner = decoder.__class__.__mro__[2].forward

    def forward(*args, **kwargs):
        features, extra = inner(decoder, *args, **kwargs)
        return decoder.output_layer(features), extra

    decoder.attach(ContinuousOutput(6, table))
    decoder.eval()
    encoder.eval()
    sample = make_batch(dictionary)
    inputs = sample["net_input"]
    encoded = encoder(inputs["src_tokens"], inputs["src_lengths"])
    hidden, extra = forward(inputs["prev_output_tokens"], encoded)
    lprobs = decoder.get_normalized_probs((hidden, extra), log_probs=True)
    assert hidden.shape[-1] == 6 and lprobs.shape[-1] == len(dictionary)


def test_temperature_reaches_the_logits(tmp_path, dictionary):
    model, sample = build(tmp_path, dictionary, "transformer").eval(), make_batch(dictionary)
    inputs = sample["net_input"]
    encoded = model.encoder(inputs["src_tokens"], inputs["src_lengths"])
    table = model.decoder.continuous_output.table
    for previous in (inputs["prev_output_tokens"][:, :1],):
        plain = model.decoder(previous, encoded)[0]
        assert plain.shape[-1] == 8
        generated = model.decoder(previous, encoded, incremental_state={})[0]
        assert generated.shape[-1] == 9
        # what fairseq's generator does with --temperature 2
        divided = generated[:, -1:, :].div_(2.0)
        got = model.get_normalized_probs((divided, None), log_probs=True)
        expected = torch.log_softmax(table.scores(plain[:, -1]) / 2, dim=-1)
        torch.testing.assert_close(got[:, -1], expected)
