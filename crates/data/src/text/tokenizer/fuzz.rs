//! Damaged tokenizer files: each is used or refused, in memory that its size justifies. They are made from files of all
//! models and most other parts of the library.

use std::cell::Cell;
use std::panic;

use super::*;
use crate::random::{Generator, Key, Purpose};
use crate::test_memory::peak_bytes;

const INPUTS: u64 = 12_000;
const TEXT: &str = "The cat  sat on ä mat!\r\nit 's 42 <unk> 漢字\n\nend";

fn files() -> Vec<Vec<u8>> {
    let file = |normalizer: &str, pre_tokenizer: &str, decoder: &str, model: &str| {
        format!(
            r#"{{"version":"1.0","truncation":{{"direction":"Right","max_length":9,"strategy":"LongestFirst","stride":0}},
            "padding":{{"strategy":{{"Fixed":9}},"direction":"Right","pad_to_multiple_of":8,"pad_id":0,"pad_type_id":0,"pad_token":"a"}},
            "added_tokens":[{{"id":4,"content":"<eos>","single_word":false,"lstrip":true,"rstrip":false,"normalized":true,"special":true}}],
            "normalizer":{normalizer},"pre_tokenizer":{pre_tokenizer},
            "post_processor":{{"type":"TemplateProcessing","single":[{{"SpecialToken":{{"id":"a","type_id":0}}}},{{"Sequence":{{"id":"A","type_id":0}}}}],
            "pair":[{{"Sequence":{{"id":"A","type_id":0}}}},{{"Sequence":{{"id":"B","type_id":1}}}}],"special_tokens":{{"a":{{"id":"a","ids":[1],"tokens":["a"]}}}}}},
            "decoder":{decoder},"model":{model}}}"#
        )
        .into_bytes()
    };
    vec![
        TokenizerSpec::default().build(TEXT).unwrap().to_json().unwrap().into_bytes(),
        TokenizerSpec::Bpe { vocabulary: 300 }.build(&TEXT.repeat(3)).unwrap().to_json().unwrap().into_bytes(),
        file(
            r#"{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Lowercase"},{"type":"Replace","pattern":{"Regex":"\\s+"},"content":" "},{"type":"Prepend","prepend":"_"}]}"#,
            r#"{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\w+|[^\\w\\s]"},"behavior":"Isolated","invert":false},{"type":"Digits","individual_digits":true},{"type":"FixedLength","length":5}]}"#,
            r#"{"type":"BPEDecoder","suffix":"</w>"}"#,
            r#"{"type":"BPE","dropout":null,"unk_token":"<unk>","continuing_subword_prefix":"k","end_of_word_suffix":"w","fuse_unk":true,"byte_fallback":true,"ignore_merges":false,"vocab":{"<unk>":0,"a":1,"kt":2,"at":3},"merges":[["a","kt"]]}"#,
        ),
        file(
            r#"{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true}"#,
            r#"{"type":"BertPreTokenizer"}"#,
            r###"{"type":"WordPiece","prefix":"##","cleanup":true}"###,
            r###"{"type":"WordPiece","unk_token":"<unk>","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"<unk>":0,"the":1,"c":2,"##at":3}}"###,
        ),
        file(
            r#"{"type":"Strip","strip_left":true,"strip_right":true}"#,
            r#"{"type":"Metaspace","replacement":"_","prepend_scheme":"always","split":true}"#,
            r#"{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}"#,
            r#"{"type":"Unigram","unk_id":0,"byte_fallback":false,"vocab":[["<unk>",0.0],["_the",-1.5],["_c",-2.5],["at",-3.0]]}"#,
        ),
    ]
}

thread_local! {
    /// True while this thread is inside the code under test.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Panics that the code under test turns into errors are not reported: a report with a backtrace takes 30 MB.
fn report_no_panic_inside() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| match INSIDE.get() {
        true => (),
        false => report(info),
    }));
}

/// A number, a name or some bytes of the file are replaced by others, or a piece of it is cut out or repeated.
fn mutate(mut json: Vec<u8>, random: &mut Generator) -> Vec<u8> {
    const VALUES: [&str; 16] = [
        "0",
        "1",
        "-1",
        "255",
        "4294967295",
        "18446744073709551615",
        "1e308",
        "null",
        "true",
        "\"\"",
        "[]",
        "{}",
        "\"a\"",
        "\"<unk>\"",
        "[[\"a\",\"at\"]]",
        "1.5",
    ];
    for _ in 0..=random.below(3) {
        let at = random.below(json.len());
        // The value that begins at or after this place: a number, a word or a string.
        let begin = at + json[at..].iter().position(|c| matches!(c, b':' | b',' | b'[')).map_or(0, |place| place + 1);
        let end = begin + json[begin..].iter().position(|c| matches!(c, b',' | b']' | b'}')).unwrap_or(0);
        let value = VALUES[random.below(VALUES.len())].bytes();
        match random.below(8) {
            0..=3 => drop(json.splice(begin..end, value)),
            4 => drop(json.drain(begin..end)),
            5 => json[at] = random.below(256) as u8,
            6 => json[at] ^= 1 << random.below(8),
            _ => json.truncate(json.len() - random.below(json.len().min(40))),
        }
        if json.is_empty() {
            break;
        }
    }
    json
}

#[test]
fn mutated_files_are_used_or_refused_without_a_panic_in_bounded_memory() {
    let files = files();
    for file in &files {
        let tokenizer = Tokenizer::from_json(file, "whole.json").unwrap();
        tokenizer.decode(&tokenizer.encode(TEXT).unwrap().tokens).unwrap();
    }
    report_no_panic_inside();
    let (mut used, mut refused, mut most) = (0, 0, 0);
    for input in 0..INPUTS {
        let mut random = Key::new(input, Purpose::new("mutated tokenizer")).generator();
        let file = &files[input as usize % files.len()];
        let json = mutate(file.clone(), &mut random);
        let work = || {
            let tokenizer = Tokenizer::from_json(&json, "mutated.json")?;
            let tokens = tokenizer.encode(TEXT)?.tokens;
            let in_vocabulary = tokens.iter().all(|&token| (token as usize) < tokenizer.vocabulary_size());
            Ok((tokenizer.decode(&tokens)?, tokenizer.to_json()?, in_vocabulary))
        };
        INSIDE.set(true);
        let (result, peak): (Result<(String, String, bool), Error>, usize) = peak_bytes(work);
        INSIDE.set(false);
        assert!(peak < 64 * json.len() + (16 << 20), "input {input}: {} bytes took {peak}", json.len());
        most = most.max(peak);
        match result {
            Ok((_, _, in_vocabulary)) => {
                assert!(in_vocabulary, "input {input}");
                used += 1;
            }
            Err(Error::Tokenizer { .. } | Error::UnknownWord { .. }) => refused += 1,
            Err(other) => panic!("input {input}: unexpected {other}"),
        }
    }
    println!("{used} used, {refused} refused, at most {most} bytes");
    assert!(used > 200 && refused > 1000, "{used} used, {refused} refused");
}
