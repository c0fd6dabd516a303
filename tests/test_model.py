"""Our model is open_clip's: same weights, same numbers, opened by open_clip itself."""

import numpy as np
import pytest
import torch

from cliplib import InputError, model
from cliplib.ladder import EOS_ID, VOCAB_SIZE, rung

RUNG = rung("XXS")
CAPTIONS = [
    "rocket launch",
    "rocket launch duotone",
    "heart",
    "an icon of an owl",
    "owl; bird, night",
]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)


def test_plain_attention_gives_the_numbers_of_open_clips_own(images):
    ours, stock = model.create(RUNG, 3), model.create(RUNG, 3, attention="fused")
    tokens = torch.from_numpy(model.tokenize(CAPTIONS).astype(np.int64))
    x = model.normalise(images)
    with torch.no_grad():
        assert torch.allclose(ours.encode_image(x), stock.encode_image(x), atol=1e-5)
        assert torch.allclose(ours.encode_text(tokens), stock.encode_text(tokens), atol=1e-5)


def test_plain_attention_has_open_clips_parameter_names():
    ours, stock = model.create(RUNG, 3), model.create(RUNG, 3, attention="fused")
    assert list(ours.state_dict()) == list(stock.state_dict())
    stock.load_state_dict(ours.state_dict())


def test_gradients_agree_with_open_clips_own(images):
    x, tokens = model.normalise(images), torch.from_numpy(model.tokenize(CAPTIONS).astype(np.int64))
    gradients = []
    for attention in ("plain", "fused"):
        clip = model.create(RUNG, 5, attention)
        image, text, scale = model.Towers(clip)(x, tokens)
        torch.nn.functional.cross_entropy(scale * image @ text.T, torch.arange(5)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in clip.parameters()]))
    assert (gradients[0] - gradients[1]).abs().max() < 1e-5 * gradients[1].abs().max()


def test_captions_trimmed_to_the_longest_give_the_padded_numbers():
    clip = model.create(RUNG, 1)
    tokens = torch.from_numpy(model.tokenize(CAPTIONS).astype(np.int64))
    longest = int((tokens != 0).sum(1).max())
    assert longest < tokens.shape[1]
    with torch.no_grad():
        whole, trimmed = (
            model.encode_text(clip, tokens),
            model.encode_text(clip, tokens[:, :longest]),
        )
    assert torch.allclose(whole, trimmed, atol=1e-6)


def test_the_last_word_of_a_caption_changes_its_embedding():
    clip = model.create(RUNG, 1)
    pair = torch.from_numpy(
        model.tokenize(["rocket launch", "rocket launch duotone"]).astype(np.int64)
    )
    with torch.no_grad():
        first, second = model.encode_text(clip, pair)
    assert first @ second < 0.999


def test_equal_seeds_give_equal_weights_and_leave_the_global_state_alone():
    before = torch.get_rng_state()
    one, two, other = (model.create(RUNG, seed).token_embedding.weight for seed in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


# ---------------------------------------------------------------------------------------- tokenizer


def test_token_ids_start_end_and_pad():
    ids = model.tokenize(["owl", "a " * 40])
    assert ids.shape == (2, 16) and ids.dtype == np.int16
    assert ids[0, 0] == 1 and (ids[0] == EOS_ID).sum() == 1 and ids[0, -1] == 0
    assert ids[1, -1] == EOS_ID  # cut, and still ended
    assert model.tokenizer().get_vocab_size() == VOCAB_SIZE


def test_the_committed_tokenizer_is_the_one_trained_on_the_corpus(corpus, tmp_path):
    from cliplib.data import load_split

    captions = [c for several in load_split(corpus, "train").captions for c in several]
    model.train_tokenizer(captions, tmp_path)
    for name in model.TOKENIZER_FILES:
        assert (tmp_path / name).read_bytes() == (model.TOKENIZER / name).read_bytes()


def test_any_text_can_be_tokenized():
    assert (model.tokenize(["Señor Ω 🚀", ""])[:, 0] == 1).all()
    assert np.array_equal(model.tokenize(["ROCKET"]), model.tokenize(["rocket"]))


# ------------------------------------------------------------------------------------- save and load


def test_open_clip_opens_a_checkpoint_and_gives_the_same_embeddings(tmp_path, images):
    import open_clip
    from PIL import Image

    clip = model.create(RUNG, 4).eval()
    model.save(clip, RUNG, tmp_path / "checkpoint")
    theirs, _, preprocess = open_clip.create_model_and_transforms(
        f"local-dir:{tmp_path / 'checkpoint'}"
    )
    words = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'checkpoint'}")(CAPTIONS)
    assert np.array_equal(words.numpy(), model.tokenize(CAPTIONS))
    x = torch.stack([preprocess(Image.fromarray(image)) for image in images])
    assert torch.allclose(x, model.normalise(images), atol=1e-5)
    theirs.eval()
    with torch.no_grad():
        assert torch.allclose(
            theirs.encode_image(x, normalize=True),
            model.encode_image(clip, model.normalise(images)),
            atol=1e-5,
        )
        assert torch.allclose(
            theirs.encode_text(words, normalize=True), model.encode_text(clip, words), atol=1e-5
        )


def test_save_and_load_are_inverse(tmp_path):
    clip = model.create(RUNG, 4)
    model.save(clip, RUNG, tmp_path)
    again = model.load(tmp_path).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in clip.state_dict().items())


@pytest.mark.parametrize("name", [model.WEIGHTS, model.CONFIG])
def test_a_damaged_checkpoint_is_one_line(tmp_path, name):
    model.save(model.create(RUNG, 4), RUNG, tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:100])
    with pytest.raises(InputError, match="no usable checkpoint") as caught:
        model.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_unknown_precision_is_refused():
    with pytest.raises(InputError, match="bf16 or fp32"):
        model.numerics("fp8")
