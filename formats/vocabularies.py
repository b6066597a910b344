"""The tokenizer in a Hugging Face folder, in and out: vocab.txt, spiece.model or tokenizer.json, and tokenizer_config.json.

    tokenizer = read_tokenizer(Path("bert-base-uncased"), config)
    lines = write_tokenizer(tokenizer, Path("folder"), config, 512)  # what other software does differently

What a file says that is not applied here is refused by name: ids that are nearly right are wrong.
"""

import contextlib
import json
from pathlib import Path

from files.mistakes import UserError, warn
from files.reading import parse_json, read_json, read_text
from files.writing import write_json
from formats.tokenizer_json import pairs, tokenizer_json
from model import BertConfig
from text.by_library import tokens_of
from text.tokenizer import BERT_SPECIALS, SPECIALS, Tokenizer
from text.vocabularies import is_lowercase, sentencepiece_as_it_is, sentencepiece_with_specials, wordpiece

ALBERT_SPECIALS = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")


def read_tokenizer(folder: Path, config: BertConfig) -> Tokenizer:
    """The folder's tokenizer: vocab.txt as WordPiece (or basic_english, where we wrote it), else spiece.model, else
    tokenizer.json."""
    settings = settings_of(folder)
    named = read_json(folder / "config.json").get("tokenizer_class")  # where older folders say it
    settings = {**settings, "tokenizer_class": settings.get("tokenizer_class") or named}
    path = next((folder / name for name in READERS if (folder / name).is_file()), None)
    if path is None:
        remedy = "fetch the vocabulary too"
        if (folder / "merges.txt").is_file():
            remedy = ("make tokenizer.json of what is there, by transformers' AutoTokenizer.from_pretrained(FOLDER)"
                      ".save_pretrained(FOLDER)")  # fmt: skip
        raise UserError(f"{folder}: holds no vocab.txt, spiece.model or tokenizer.json; {remedy}")
    tokenizer = READERS[path.name](path, settings)
    if len(tokenizer) > config.vocab_size:
        raise UserError(f"{path}: {len(tokenizer)} tokens, but config.json says {config.vocab_size}; fetch both again")
    return tokenizer


def settings_of(folder):
    """What tokenizer_config.json says, and of special tokens special_tokens_map.json, where they are there."""
    found: dict = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        settings = read_json(folder / name) if (folder / name).is_file() else {}
        if not isinstance(settings, dict):
            raise UserError(f"{folder / name}: holds no settings; fetch it again")
        found |= settings
    return found


def special_tokens(settings, defaults):
    """The strings of padding, unknown, beginning, separator and mask; a setting is a string or a dict with "content"."""
    found = []
    for name, default in zip(("pad", "unk", "cls", "sep", "mask"), defaults, strict=True):
        value = settings.get(f"{name}_token") or default
        found.append(str(value.get("content", default)) if isinstance(value, dict) else str(value))
    return tuple(found)


def refuse_settings(path, settings, unsupported):
    for name, value in unsupported:
        if settings.get(name) == value:
            raise UserError(f"{path}: {name} {json.dumps(value)} in tokenizer_config.json is not supported; "
                            "choose another model, or remove it there if your texts do not need it")  # fmt: skip


def read_vocab_txt(path, settings):
    specials = special_tokens(settings, BERT_SPECIALS)
    if settings.get("basic_english") is True:
        tokens = read_text(path).rstrip("\n").split("\n")
        missing = [special for special in specials if special not in tokens]
        if missing:
            raise UserError(f"{path}: lacks {' '.join(missing)}; export the model again")
        return Tokenizer("basic_english", tokens, specials)
    lowercase = settings.get("do_lower_case")
    tokenizer = wordpiece(path, None if lowercase is None else bool(lowercase), specials)
    refuse_wordpiece(path, settings, tokenizer.lowercase)
    beside = path.with_name("tokenizer.json")  # by which transformers goes where both are there
    found = read_json(beside) if beside.is_file() else {}
    with contextlib.suppress(KeyError, TypeError, AttributeError):  # damaged, and not read
        if model_type(found["model"]) == "WordPiece":
            refuse_other_rules(beside, found)
    return with_added(path, tokenizer, added_beside(path))


def added_beside(path):
    """(id, word) of the words that added_tokens.json adds to the vocabulary beside it."""
    added = path.with_name("added_tokens.json")
    found = read_json(added) if added.is_file() else {}
    return [(number, word) for word, number in found.items()] if isinstance(found, dict) else []


def refuse_wordpiece(path, settings, lowercase):
    """Accents go with the capitals, and ideographs stand alone: nothing else is known here."""
    refuse_settings(path, settings, [
        ("strip_accents", not lowercase), ("tokenize_chinese_chars", False), ("tokenizer_class", "BertJapaneseTokenizer"),
        ("word_tokenizer_type", "mecab"), ("subword_tokenizer_type", "character"),
    ])  # fmt: skip


def read_spiece(path, settings):
    """ALBERT's tokenizer, or the one that an export of our own SentencePiece vocabularies describes."""
    clean, lowercase = not settings.get("keep_accents", False), bool(settings.get("do_lower_case", True))
    if not clean and lowercase:
        refuse_settings(path, settings, [("keep_accents", True)])
    named = settings.get("tokenizer_class")
    if named not in (None, "AlbertTokenizer", "AlbertTokenizerFast", "PreTrainedTokenizerFast"):
        raise UserError(f"{path}: tokenizer_class {named} is not supported, only AlbertTokenizer; choose another model")
    specials = special_tokens(settings, ALBERT_SPECIALS)
    try:
        tokenizer = sentencepiece_as_it_is(path.read_bytes(), specials, clean, lowercase or not clean)
    except ValueError as error:
        raise UserError(f"{path}: no whole SentencePiece model with its special tokens ({error}); fetch it again") from None
    tell_of_lost(path, tokenizer, added_beside(path))
    return tokenizer


def read_tokenizer_json(path, settings):
    """The WordPiece vocabulary in a tokenizer.json, since newer folders of BERT models hold no vocab.txt; or another, such
    as RoBERTa's byte pairs, which the library tokenizers will apply."""
    text = read_text(path)
    found = parse_json(text, path)
    try:
        if model_type(found["model"]) in ("BPE", "Unigram"):
            specials = special_tokens(settings, ROBERTA_SPECIALS)
            made = Tokenizer("json", tokens_of(found), specials, False, text.encode())
            made.encode("a")  # what is damaged, or a library that is missing, is told before any work
            return made
        vocabulary = found["model"]["vocab"]
        tokens = sorted(vocabulary, key=vocabulary.get)
        ids = list(map(vocabulary.get, tokens))
        if model_type(found["model"]) != "WordPiece" or ids != list(range(len(ids))):
            raise ValueError("not WordPiece")
        refuse_other_rules(path, found)
        normalizer = found["normalizer"]
        said = normalizer.get("lowercase"), settings.get("do_lower_case")
        if settings.get("tokenizer_class") != "PreTrainedTokenizerFast":
            said = said[::-1]  # transformers' BertTokenizerFast brings the file into line with its settings
        lowercase = bool(next((value for value in said if value is not None), is_lowercase(tokens)))
        settings = {"strip_accents": normalizer.get("strip_accents"),
                    "tokenize_chinese_chars": normalizer.get("handle_chinese_chars"), **settings}  # fmt: skip
        refuse_wordpiece(path, settings, lowercase)
        added = [(one["id"], one["content"]) for one in found.get("added_tokens") or ()]
        tokenizer = Tokenizer("wordpiece", tokens, special_tokens(settings, BERT_SPECIALS), lowercase)
        return with_added(path, tokenizer, added)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path}: no vocabulary that is known here; add its vocab.txt or spiece.model") from None


def model_type(model):
    """Older files, such as RoBERTa's on the hub, do not say it."""
    untold = "BPE" if "merges" in model else "WordPiece" if isinstance(model["vocab"], dict) else "Unigram"
    return model.get("type") or untold


def refuse_other_rules(path, found):
    """Raises UserError where a WordPiece tokenizer.json splits texts or words otherwise than BERT's own."""
    for part, known in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
        if found.get(part) is None:
            raise UserError(f"{path}: {part} null is not supported, only {known}; choose another model")
    rules = [("normalizer", found["normalizer"].get("type"), "BertNormalizer"),
             ("pre_tokenizer", found["pre_tokenizer"].get("type"), "BertPreTokenizer"),
             ("clean_text", found["normalizer"].get("clean_text"), True)]  # fmt: skip
    rules += [(name, found["model"].get(name), known)
              for name, known in (("continuing_subword_prefix", "##"), ("max_input_chars_per_word", 100))]  # fmt: skip
    for name, value, known in rules:
        if value not in (None, known):
            raise UserError(f"{path}: {name} {value} is not supported, only {known}; choose another model")


def with_added(path, tokenizer, added):
    """A WordPiece tokenizer with the words, (id, word), that were added behind its vocabulary, as far as they follow one
    another."""
    tokens, found = list(tokenizer.tokens), {number: word for number, word in added
                                             if type(number) is int and isinstance(word, str)}  # fmt: skip
    while found.get(len(tokens), tokens[0]) not in tokens:
        tokens.append(found[len(tokens)])
    made = Tokenizer("wordpiece", tokens, tokenizer.specials, tokenizer.lowercase)
    tell_of_lost(path, made, found.items())
    return made


def tell_of_lost(path, tokenizer, added):
    """Warn of words, (id, word), that other software takes whole and this tokenizer cuts."""
    lost = [word for number, word in added if word not in tokenizer.specials and tokenizer.encode_ids(word) != [number]]
    if lost:
        warn(f"{path}: of the words that were added to the vocabulary {len(lost)} are cut to pieces here, such as "
             f"{min(lost)!r}: texts with them are not read as in the model's training")  # fmt: skip


def as_trained(tokenizer):
    """The tokenizer.json of a RoBERTa, but with pairs laid out as BERT's, and the first word of a text as any other."""
    found = json.loads(tokenizer.model)
    found["post_processor"] = pairs(tokenizer)
    whole = found.get("pre_tokenizer") or {}
    steps = whole.get("pretokenizers") or [whole]
    of_bytes = [step for step in steps if step.get("type") == "ByteLevel"]
    for step in of_bytes:
        step["add_prefix_space"] = True
    if of_bytes:  # words are cut at white space here, of which none then becomes a token
        found["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, *steps]}
    return found


# The first that a folder has is read.
READERS = {"vocab.txt": read_vocab_txt, "spiece.model": read_spiece, "tokenizer.json": read_tokenizer_json}


def longest_text(folder: Path, config: BertConfig) -> int | None:
    """How many tokens a text may have by tokenizer_config.json, where these are fewer than there are positions."""
    longest = settings_of(folder).get("model_max_length")
    return longest if type(longest) is int and 8 <= longest < config.max_position_embeddings else None


def read_at_once(notes: dict, config: BertConfig) -> int:
    """How many tokens a model was trained on at once, as its notes tell, else its positions: those beyond are untrained."""
    longest = notes.get("bptt") or notes.get("longest")  # the second is longest_text's
    positions = config.max_position_embeddings
    return min(longest, positions) if type(longest) is int and longest >= 8 else positions


def write_tokenizer(tokenizer: Tokenizer, folder: Path, config: BertConfig, longest: int) -> list[str]:
    """The vocabulary and tokenizer_config.json, with how many tokens are read at once; gives a line on what other software
    does differently."""
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    inputs = ["input_ids", *["token_type_ids"] * (config.type_vocab_size > 1), "attention_mask"]
    settings, lines = {"model_input_names": inputs, "model_max_length": longest}, []
    if tokenizer.kind == "sentencepiece":
        try:
            model = sentencepiece_with_specials(tokenizer)
            found = tokenizer_json(tokenizer, model)
        except ValueError as error:
            raise UserError(f"the vocabulary's SentencePiece model is damaged ({error}); get the model again") from None
        if not found and not tokenizer.clean and tokenizer.tokens[: len(SPECIALS)] == list(SPECIALS):
            # AlbertTokenizer knows its own special tokens alone.
            tokens = [*ALBERT_SPECIALS, *tokenizer.tokens[len(SPECIALS) :]]
            tokenizer = Tokenizer("sentencepiece", tokens, ALBERT_SPECIALS, tokenizer.lowercase, tokenizer.model)
            model = sentencepiece_with_specials(tokenizer)
        (folder / "spiece.model").write_bytes(model)
        lowercase = tokenizer.clean and tokenizer.lowercase
        settings.update(tokenizer_class="AlbertTokenizer", do_lower_case=lowercase, keep_accents=not tokenizer.clean)
        if found:
            write_json(folder / "tokenizer.json", found)
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        elif not tokenizer.clean:
            lines.append("spiece.model is meant for transformers' AlbertTokenizer, loaded with use_fast=False lest a piece "
                         "of your own be cut out of words; it cuts doubled quotes and digits before commas in its own way: "
                         "a few ids will differ")  # fmt: skip
    elif tokenizer.kind == "json":
        write_json(folder / "tokenizer.json", as_trained(tokenizer))
        settings.update(tokenizer_class="PreTrainedTokenizerFast", add_prefix_space=True)
    else:
        (folder / "vocab.txt").write_bytes("".join(f"{token}\n" for token in tokenizer.tokens).encode())
        lowercase = tokenizer.lowercase or tokenizer.kind == "basic_english"
        settings.update(tokenizer_class="BertTokenizer", do_lower_case=lowercase)
        if tokenizer.kind == "basic_english":
            settings["basic_english"] = True
            lines.append("vocab.txt holds whole words of torchtext's basic_english: transformers' BertTokenizer finds "
                         "them, but treats punctuation and accents in its own way")  # fmt: skip
    settings.update(zip(names, tokenizer.specials, strict=True))
    write_json(folder / "tokenizer_config.json", settings)
    return lines
