//! Tokenizers beside plain oracles, and the files that no language model can use.

use super::*;
use crate::random::{Key, Purpose};
use crate::text::words::{END_OF_LINE, different_words, words};

const TEXT: &str = " the cat <unk> on the mat \n\n the dog 's <unk> \u{e4}\u{a0}ö\n";

fn spec(text: &str) -> TokenizerSpec {
    text.parse().unwrap()
}

/// A tokenizer file with this model, and these parts of the file changed.
fn file(model: serde_json::Value, changes: serde_json::Value) -> Result<Tokenizer, Error> {
    let mut file = serde_json::json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": model });
    file.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    Tokenizer::from_json(&serde_json::to_vec(&file).unwrap(), "some.json")
}

fn words_file(vocabulary: serde_json::Value) -> Result<Tokenizer, Error> {
    file(serde_json::json!({ "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" }), serde_json::json!({}))
}

#[test]
fn words_have_the_numbers_of_a_plain_count() {
    let random_text = |seed| -> String {
        let mut random = Key::new(seed, Purpose::new("random text")).generator();
        let alphabet =
            ["a", "b", "<unk>", "<eos>", "x<unk>y", "ä", " ", "  ", "\t", "\u{a0}", "\n", "\r\n", "\r", "\u{2028}"];
        (0..random.below(60)).map(|_| alphabet[random.below(alphabet.len())]).collect()
    };
    for seed in 0..500 {
        for limit in [None, Some(2), Some(4)] {
            let (train, other) = (random_text(2 * seed), random_text(2 * seed + 1));
            let list = different_words(&train, limit);
            let tokenizer = TokenizerSpec::Words { limit }.build(&train).unwrap();
            assert_eq!(tokenizer.vocabulary_size(), list.len());
            let number = |word: &str| list.iter().position(|known| known == word).map(|place| place as u32);
            let unknown = number(UNKNOWN).unwrap();
            let expected: Vec<u32> = words(&other).map(|word| number(word).unwrap_or(unknown)).collect();
            let missing = words(&other).filter(|word| number(word).is_none()).count();
            assert_eq!(tokenizer.encode(&other).unwrap(), Encoded { tokens: expected, unknown: missing }, "{other:?}");
        }
    }
}

#[test]
fn lines_on_many_threads_keep_their_order() {
    let text: String = (0..5000).map(|line| format!("w{} w{}\n", line % 97, line % 31)).collect();
    let tokenizer = TokenizerSpec::default().build(&text).unwrap();
    let encoded = tokenizer.encode(&text).unwrap();
    assert_eq!(tokenizer.decode(&encoded.tokens).unwrap(), text);
    let wrong = text.clone() + "new\n" + &text;
    let tokenizer =
        Tokenizer::of_words(different_words(&text, None).into_iter().filter(|word| word != UNKNOWN)).unwrap();
    let error = tokenizer.encode(&(wrong + "newer\n")).unwrap_err().to_string();
    assert!(error.starts_with("the text, line 5001: the word \"new\" is not in the vocabulary of words"), "{error}");
}

#[test]
fn merged_bytes_give_back_every_text_and_know_every_character() {
    let tokenizer = spec("bpe:300").build(TEXT).unwrap();
    assert_eq!((tokenizer.id(END_OF_LINE), tokenizer.id(UNKNOWN)), (Some(0), Some(1)));
    let unseen = "Ünßéen 漢字 🦀\n\n  spaces\t<unk>x";
    for text in [TEXT, unseen, "", "\n", "x"] {
        let encoded = tokenizer.encode(text).unwrap();
        assert_eq!(encoded.unknown, 0, "{text:?}");
        let whole = if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
        assert_eq!(tokenizer.decode(&encoded.tokens).unwrap(), whole);
    }
    let encoded = tokenizer.encode(TEXT).unwrap();
    assert_eq!(encoded.tokens.iter().filter(|&&token| token == 1).count(), 2, "<unk> in the text is one token");
    assert!(encoded.tokens.len() < TEXT.len(), "something was merged");
    assert!(tokenizer.token(258).is_some_and(|first| first.chars().count() == 2), "the first merge is a pair");
}

#[test]
fn the_same_text_gives_the_same_tokenizer_for_any_number_of_threads() {
    let mut random = Key::new(1, Purpose::new("random text")).generator();
    let text: String =
        (0..3000).map(|_| ["ab", "abc", "bca", "cab ", " ", "aa", "bb", "c\n"][random.below(8)]).collect();
    for kind in ["words", "words:20", "bpe:400"] {
        let build = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| spec(kind).build(&text).unwrap().to_json().unwrap())
        };
        let once = build(1);
        assert!((0..4).all(|_| build(1) == once) && build(4) == once, "{kind}");
    }
}

#[test]
fn a_saved_tokenizer_is_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    for kind in ["words", "words:5", "bpe:270"] {
        let tokenizer = spec(kind).build(TEXT).unwrap();
        tokenizer.save(&path).unwrap();
        let again = spec(path.to_str().unwrap()).build("another text").unwrap();
        assert_eq!(again.to_json().unwrap(), tokenizer.to_json().unwrap(), "{kind}");
        assert_eq!(again.encode(TEXT).unwrap(), tokenizer.encode(TEXT).unwrap(), "{kind}");
        assert_eq!(again.vocabulary_size(), tokenizer.vocabulary_size());
        assert_eq!((again.end_of_line(), again.unknown()), (tokenizer.end_of_line(), tokenizer.unknown()));
    }
    let missing = Tokenizer::load(folder.path().join("no.json")).unwrap_err().to_string();
    assert!(missing.contains("cannot open") && missing.contains("no.json"), "{missing}");
}

#[test]
fn a_vocabulary_of_two_reads_everything_as_unknown() {
    let tokenizer = spec("words:2").build("a b\n").unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 2);
    assert_eq!(tokenizer.encode("a\n<unk>").unwrap(), Encoded { tokens: vec![1, 0, 1, 0], unknown: 1 });
    assert_eq!(tokenizer.decode(&[1, 0, 1]).unwrap(), "<unk>\n<unk>");
    let error = tokenizer.decode(&[0, 2]).unwrap_err().to_string();
    assert!(error.contains("token 2 is not in its vocabulary of 2"), "{error}");
}

#[test]
fn a_prompt_goes_on_where_a_text_ends() {
    let tokenizer = spec("words").build("a b\n").unwrap();
    for (prompt, tokens) in
        [("a b", vec![0, 1]), ("a\nb", vec![0, 2, 1]), ("a\r\n", vec![0, 2]), ("", vec![]), ("\n", vec![2])]
    {
        assert_eq!(tokenizer.encode_prompt(prompt).unwrap(), tokens, "{prompt:?}");
    }
    let no_lines = Tokenizer::of_words(["w0", "w1"].map(str::to_owned)).unwrap();
    assert_eq!(no_lines.encode_prompt("w1 w0").unwrap(), [1, 0]);
    let error = no_lines.encode_prompt("w1 hello").unwrap_err().to_string();
    assert!(error.starts_with("the prompt, line 1: the word \"hello\""), "{error}");
}

#[test]
fn without_eos_the_end_of_a_line_is_text() {
    let bytes = spec("bpe:258").build("").unwrap().to_json().unwrap();
    let tokenizer = Tokenizer::from_json(bytes.replace(END_OF_LINE, "[eos]").as_bytes(), "b.json").unwrap();
    assert_eq!(tokenizer.end_of_line(), None);
    let encoded = tokenizer.encode("a\r\nb\n\nc").unwrap();
    assert_eq!(encoded.tokens.len(), 6);
    assert_eq!(tokenizer.decode(&encoded.tokens).unwrap(), "a\nb\n\nc");
}

#[test]
fn what_serves_other_models_is_left_out_of_a_file() {
    let model =
        serde_json::json!({ "type": "WordLevel", "vocab": { "a": 0, "<unk>": 1, "[CLS]": 2 }, "unk_token": "<unk>" });
    let around = serde_json::json!({
        "truncation": { "direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 9 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 2,
            "pad_type_id": 0, "pad_token": "[CLS]" },
        "post_processor": { "type": "BertProcessing", "sep": ["[CLS]", 2], "cls": ["[CLS]", 2] } });
    assert_eq!(file(model, around).unwrap().encode("a b a").unwrap(), Encoded { tokens: vec![0, 1, 0], unknown: 1 });
}

#[test]
fn files_that_no_language_model_can_use_are_refused() {
    let message = |result: Result<Tokenizer, Error>| result.unwrap_err().to_string();
    let vocabulary = |json: serde_json::Value| message(words_file(json));
    assert!(vocabulary(serde_json::json!({})).starts_with("tokenizer some.json: its vocabulary has 0 tokens"));
    let huge = vocabulary(serde_json::json!({ "a": 0, "b": u32::MAX }));
    assert!(huge.contains("a token with number 4294967295, at most 1048575 are allowed"), "{huge}");
    assert!(vocabulary(serde_json::json!({ "a": 0, "b": 7, "c": 7 })).contains("two tokens have the number 7"));
    assert_eq!(words_file(serde_json::json!({ "a": 0, "b": 7 })).unwrap().vocabulary_size(), 8);

    let bpe = |dropout, unknown| {
        file(
            serde_json::json!({ "type": "BPE", "dropout": dropout, "unk_token": unknown, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": { "a": 0, "b": 1, "ab": 2 },
                "merges": ["a b"] }),
            serde_json::json!({}),
        )
    };
    assert!(message(bpe(Some(0.1), Some("a"))).contains("its dropout is 0.1"));
    assert!(message(bpe(None, None)).contains("characters that its vocabulary lacks would be dropped silently"));
    assert_eq!(bpe(None, Some("a")).unwrap().encode("abz").unwrap(), Encoded { tokens: vec![2, 0], unknown: 1 });
    let lacking = bpe(None, Some("?")).unwrap().encode("ab b\nb zb").unwrap_err().to_string();
    assert!(lacking.starts_with("the text, line 2: the word \"zb\""), "{lacking}");

    for json in ["", "{}", "[]", "null", "{\"version\":\"2.0\"}", &"[".repeat(100_000)] {
        let error = message(Tokenizer::from_json(json.as_bytes(), "x.json"));
        assert!(error.starts_with("tokenizer x.json: it cannot be read: ") && error.contains("; give "), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let large = std::fs::File::create(folder.path().join("large.json")).unwrap();
    large.set_len((64 << 20) + 1).unwrap();
    assert!(message(Tokenizer::load(folder.path().join("large.json"))).contains("it has more than 64 MiB"));
}

#[test]
fn a_panic_of_the_library_is_an_error() {
    let model = serde_json::json!({ "type": "WordLevel", "vocab": { "a": 0, "<unk>": 1 }, "unk_token": "<unk>" });
    let chunks = serde_json::json!({ "pre_tokenizer": { "type": "FixedLength", "length": 0 } });
    let error = file(model, chunks).unwrap().encode("a").unwrap_err().to_string();
    assert!(error.contains("it cannot encode: ") && error.contains("chunk size must be non-zero"), "{error}");
}

#[test]
fn what_is_typed_is_read_and_shown_the_same() {
    for text in
        ["words", "words:2", "words:5000", "bpe:258", "bpe:8000", "some/tokenizer.json", "C:\\x.JSON", "bpe:8000.json"]
    {
        assert_eq!(text.parse::<TokenizerSpec>().map(|spec| spec.to_string()).ok().as_deref(), Some(text));
    }
    assert_eq!(serde_json::to_string(&TokenizerSpec::default()).unwrap(), "\"words\"");
    assert_eq!(serde_json::from_str::<TokenizerSpec>("\"bpe:8000\"").unwrap(), TokenizerSpec::Bpe { vocabulary: 8000 });
    for text in
        ["", "word", "bpe", "bpe:", "bpe:257", "bpe:-1", "bpe:1048577", "words:1", "words:x", "unigram:8000", "x.txt"]
    {
        let error = text.parse::<TokenizerSpec>().unwrap_err().to_string();
        assert!(
            error.starts_with("tokenizer is ") && error.contains("expected words") | error.contains("expected bpe"),
            "{error}"
        );
    }
    assert!(TokenizerSpec::Bpe { vocabulary: 9 }.build("a").unwrap_err().to_string().contains("tokenizer is bpe:9"));
}
