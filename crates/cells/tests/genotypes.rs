//! Genotypes: both forms read back what was written, the built-in cells are those of the golden files, broken cells are refused
//! with the rule they break, and no bytes make the reader panic.

mod common;

use darts_cells::{
    Error,
    genotype::{ConvGenotype, Genotype, RecurrentGenotype, named},
    primitive::{Activation, Primitive},
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

#[test]
fn both_forms_read_back_every_named_genotype() {
    for (name, genotype) in named::all() {
        assert_eq!(Genotype::read(genotype.to_json().unwrap().as_bytes()).unwrap(), genotype, "{name}");
        assert_eq!(genotype.to_string().parse::<Genotype>().unwrap(), genotype, "{name}");
    }
}

#[test]
fn named_genotypes_match_golden() {
    let mut compared = 0;
    for (file, name) in [
        ("cifar_darts_v1", "DARTS_V1"),
        ("cifar_darts_v2", "darts_v2"),
        ("cifar_nasnet", "NASNet"),
        ("cifar_amoebanet", "AmoebaNet"),
        ("rnn_darts_v1", "DARTS_V1"),
        ("rnn_darts_v2", "DARTS_V2"),
        ("rnn_enas", "enas"),
    ] {
        for golden in common::golden_files(file, "safetensors") {
            if golden.file_stem().is_some_and(|stem| stem != file) {
                continue;
            }
            let expected = Genotype::read(common::metadata(&golden)["genotype"].as_bytes()).unwrap();
            let actual: Genotype = match &expected {
                Genotype::Conv(_) => named::conv(name).unwrap().into(),
                Genotype::Recurrent(_) => named::recurrent(name).unwrap().into(),
            };
            assert_eq!(actual, expected, "{file}");
            compared += 1;
        }
    }
    println!("{compared} named genotypes compared");
}

#[test]
fn the_text_form_is_printed_as_the_field_writes_it() {
    assert_eq!(
        named::conv("DARTS_V2").unwrap().to_string(),
        "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), \
         ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=range(2, 6), \
         reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), \
         ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=range(2, 6))"
    );
    let enas = named::recurrent("ENAS").unwrap().to_string();
    assert!(enas.starts_with("Genotype(recurrent=[('tanh', 0), ('tanh', 1), ('relu', 1)"), "{enas}");
    assert!(enas.ends_with("concat=[2, 5, 6, 9, 10, 11])"), "{enas}");
}

#[test]
fn the_text_form_is_read_with_lists_ranges_and_free_layout() {
    let text = r#"
        Cell_7 = Genotype(
            concat = [2, 1,],
            recurrent = [ ("relu", 0), ['sigmoid', 1,] , ],
        )"#;
    let expected =
        RecurrentGenotype { recurrent: vec![(Activation::Relu, 0), (Activation::Sigmoid, 1)], concat: vec![2, 1] };
    assert_eq!(text.parse::<Genotype>().unwrap(), expected.into());
    let text = "Genotype(recurrent=[('relu',0),('tanh',0)],concat=range(1,3))";
    let Genotype::Recurrent(genotype) = text.parse().unwrap() else { panic!("another kind") };
    assert_eq!(genotype.concat, [1, 2]);
}

#[test]
fn text_that_does_not_parse_is_refused_at_its_byte() {
    let message = |text: &str| text.parse::<Genotype>().unwrap_err().to_string();
    assert_eq!(
        message("Genotype(recurrent=[('relu' 0)], concat=[1])"),
        "genotype text, byte 28: found '0', expected ','"
    );
    assert_eq!(message(""), "genotype text, byte 0: found the end, expected 'Genotype('");
    let long = message("Genotype(recurrent=[('relu', 0)], concat=range(0, 99999999999))");
    assert!(long.contains("range(0, 99999999999)") && long.contains("at most"), "{long}");
    let unknown = message("Genotype(recurrent=[('rellu', 0)], concat=[1])");
    assert!(unknown.contains("'rellu'; did you mean 'relu'?"), "{unknown}");
    let twice = message("Genotype(recurrent=[('relu', 0)], concat=[1], concat=[1])");
    assert!(twice.contains("'concat' again"), "{twice}");
    assert!(message("Genotype(recurrent=[('relu', 0)])").contains("'concat='"));
    assert!(message("Genotype(recurrent=[('relu', 0)], concat=[1]) x").contains("expected the end"));
    assert!(message("Genotype(normal=[], normal_concat=[2])").contains("'reduce='"));
}

#[test]
fn json_that_does_not_fit_is_refused_by_the_kind_that_was_meant() {
    let message = |text: &str| Genotype::read(text.as_bytes()).unwrap_err().to_string();
    assert!(message("{}").contains("'recurrent'"));
    assert!(message(r#"{"recurrent":[["relu",0]]}"#).contains("missing field `concat`"));
    assert!(message(r#"{"recurrent":[["relo",0]],"concat":[1]}"#).contains("did you mean 'relu'?"));
    assert!(message(r#"{"normal":[["skip_conect",0]],"normal_concat":[2]}"#).contains("did you mean 'skip_connect'?"));
    assert!(message(r#"{"recurrent":[["relu",-1]],"concat":[1]}"#).contains("-1"));
    assert!(message(r#"{"recurrent":[["relu",0]],"concat":[1],"color":3}"#).contains("color"));
    let conv = named::conv("DARTS_V1").unwrap();
    let json = serde_json::to_string(&conv).unwrap();
    assert_eq!(serde_json::from_str::<ConvGenotype>(&json).unwrap(), conv);
    assert!(serde_json::from_str::<RecurrentGenotype>(&json).unwrap_err().to_string().contains("expected a recurrent"));
}

#[test]
fn cells_that_cannot_be_built_are_refused_with_the_rule() {
    let good = named::conv("NASNet").unwrap();
    let broken = |change: &dyn Fn(&mut ConvGenotype)| {
        let mut genotype = good.clone();
        change(&mut genotype);
        genotype.validate().unwrap_err()
    };
    assert!(matches!(broken(&|g| g.normal.truncate(9)), Error::Pairs { cell: "normal", pairs: 9, .. }));
    assert!(matches!(broken(&|g| g.reduce.clear()), Error::Pairs { cell: "reduce", pairs: 0, .. }));
    assert!(matches!(broken(&|g| g.normal[3].1 = 3), Error::Source { pair: 3, source_node: 3, last: 2, .. }));
    assert!(matches!(
        broken(&|g| g.normal[0].0 = Primitive::None),
        Error::Operation { pair: 0, operation: "none", .. }
    ));
    for concat in [vec![], vec![1], vec![7], vec![2, 3, 2], vec![usize::MAX]] {
        assert!(matches!(broken(&|g| g.reduce_concat = concat.clone()), Error::Concat { cell: "reduce", .. }));
    }
    let recurrent = |pairs: &[(Activation, usize)], concat: &[usize]| {
        RecurrentGenotype { recurrent: pairs.to_vec(), concat: concat.to_vec() }.validate()
    };
    let tanh = Activation::Tanh;
    assert!(recurrent(&[(tanh, 0), (tanh, 1)], &[2]).is_ok());
    assert!(matches!(recurrent(&[(tanh, 1)], &[1]), Err(Error::Source { last: 0, .. })));
    assert!(matches!(recurrent(&[(tanh, 0)], &[0]), Err(Error::Concat { first: 1, last: 1, .. })));
    assert!(matches!(recurrent(&[(Activation::None, 0)], &[1]), Err(Error::Operation { .. })));
    assert!(matches!(recurrent(&[], &[]), Err(Error::Pairs { .. })));
    assert!(matches!(named::conv("DARTS-V2"), Err(Error::UnknownGenotype { nearest: "DARTS_V2", .. })));
    assert!(matches!(named::recurrent("nasnet"), Err(Error::UnknownGenotype { nearest: "ENAS", .. })));
}

#[test]
fn no_mutation_of_a_genotype_makes_the_reader_panic() {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for (_, genotype) in named::all() {
        seeds.push(genotype.to_string().into_bytes());
        seeds.push(genotype.to_json().unwrap().into_bytes());
    }
    let pieces: [&[u8]; 12] = [
        b"range(",
        b"'",
        b"\"",
        b"[",
        b"(",
        b"{",
        b"}",
        b"99999999999999999999",
        b"\xff\xfe",
        b"\xe2\x82",
        b"=",
        b"\0",
    ];
    let mut random = ChaCha8Rng::seed_from_u64(20);
    let mut below = |n: usize| (random.next_u64() % n as u64) as usize;
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..20_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=below(4) {
            let at = below(bytes.len() + 1);
            match below(6) {
                0 if at < bytes.len() => bytes[at] = below(256) as u8,
                1 if at < bytes.len() => bytes[at] ^= 1 << below(8),
                2 => drop(bytes.drain(at..(at + below(9)).min(bytes.len()))),
                3 => bytes.truncate(at),
                4 => drop(bytes.splice(at..at, pieces[below(pieces.len())].iter().copied())),
                _ => {
                    let other = &seeds[below(seeds.len())];
                    let from = below(other.len());
                    let length = below(40).min(other.len() - from);
                    drop(bytes.splice(at..at, other[from..from + length].iter().copied()));
                }
            }
        }
        match Genotype::read(&bytes) {
            Ok(genotype) => {
                accepted += 1;
                assert_eq!(genotype.to_string().parse::<Genotype>().unwrap(), genotype);
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().len() < 2000, "{error}");
            }
        }
    }
    assert!(accepted > 100 && refused > 10_000, "{accepted} accepted, {refused} refused");
    let deep = [vec![b'['; 100_000], vec![b'{'; 100_000], vec![b'('; 100_000]];
    assert!(deep.iter().all(|bytes| Genotype::read(bytes).is_err()));
}
