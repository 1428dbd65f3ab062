//! `darts profile` against the exact figures that follow from the paper's definitions.

use darts_tests::program::run;
use serde_json::Value;

fn profile(arguments: &str) -> Value {
    let line = format!("profile {arguments} --json");
    serde_json::from_str(&run(line.split(' ')).expect_success()).unwrap()
}

#[test]
fn parameters_and_multiply_adds_match_the_published_definitions() {
    let table = [
        ("supernet --task cifar10", 1_930_618, 1_930_618, 300_255_744_u64),
        ("DARTS_V1 --task cifar10", 3_169_414, 3_645_840, 500_987_520),
        ("DARTS_V2 --task cifar10", 3_349_342, 3_825_768, 528_359_040),
        ("NASNet --task cifar10", 3_830_950, 4_288_944, 603_452_448),
        ("AmoebaNet --task cifar10", 3_145_078, 3_603_072, 488_931_552),
        ("DARTS_V1 --task imagenet", 4_510_432, 5_771_208, 505_864_704),
        ("DARTS_V2 --task imagenet", 4_718_752, 5_979_528, 529_911_552),
        ("NASNet --task imagenet", 5_564_320, 6_800_520, 604_031_616),
        ("AmoebaNet --task imagenet", 4_627_360, 5_863_560, 526_746_624),
        ("supernet --task ptb", 4_810_000, 4_810_000, 9_840_000),
        ("DARTS_V1 --task ptb", 22_960_000, 22_960_000, 22_950_000),
        ("DARTS_V2 --task ptb", 22_960_000, 22_960_000, 22_950_000),
        ("DARTS_V2 --task wikitext2", 33_127_878, 33_127_878, 33_094_600),
    ];
    for (arguments, parameters, with_auxiliary, multiply_adds) in table {
        let profile = profile(arguments);
        assert_eq!(profile["parameters"], parameters, "{arguments}");
        assert_eq!(profile["parameters_with_auxiliary"], with_auxiliary, "{arguments}");
        assert_eq!(profile["multiply_adds"], multiply_adds, "{arguments}");
        assert!(profile["training_bytes"].as_u64().unwrap() > 0, "{arguments}");
    }
}

#[test]
fn memory_of_a_training_step_is_what_the_project_promises() {
    let bytes = |arguments| profile(arguments)["training_bytes"].as_u64().unwrap();
    assert!(bytes("supernet --task cifar10") <= 3_000_000_000);
    assert!(bytes("DARTS_V2 --task cifar10") <= 6_000_000_000);
    assert!(bytes("supernet --task ptb") <= 2_500_000_000);
    assert!(bytes("DARTS_V2 --task ptb --units 200") < bytes("DARTS_V2 --task ptb"));
    assert!(bytes("supernet --task cifar10 --batch-size 32") < bytes("supernet --task cifar10"));
}

#[test]
fn the_mobile_limit_separates_darts_from_nasnet() {
    assert_eq!(profile("DARTS_V2 --task imagenet")["mobile"], true);
    assert_eq!(profile("NASNet --task imagenet")["mobile"], false);
    assert_eq!(profile("DARTS_V2 --task cifar10").get("mobile"), None);
    let text = run("profile NASNet --task imagenet".split(' ')).expect_success();
    assert!(text.contains("beyond its limit of less than 600,000,000"), "{text}");
}
