//! The check of golden files as `darts verify` makes it: the files pass, and a copy in which one thing is wrong does not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use darts_runs::verify::Processor;
use darts_runs::verify::folder::{Family, Outcome, Summary, check_file, check_folder, golden_files};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;

/// `$DARTS_GOLDEN_DIR`, or the project's own copy.
fn golden_dir() -> PathBuf {
    std::env::var_os("DARTS_GOLDEN_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"), PathBuf::from)
}

/// Checks every file whose name starts with `prefix`; at least one must be there.
fn assert_passes(prefix: &str) {
    let mut files = golden_files(&golden_dir(), None).unwrap();
    files.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix));
    assert!(!files.is_empty(), "no file {prefix}* in {}", golden_dir().display());
    for path in files {
        match check_file(&path, &Processor) {
            Outcome::Checked(report) => {
                for group in &report.groups {
                    println!(
                        "{}: {} {} worst {:.1e} ({})",
                        path.display(),
                        group.group,
                        group.values,
                        group.worst,
                        group.key
                    );
                }
                assert!(report.values > 0, "{}", path.display());
                assert!(report.passed(), "{}: {:#?}", path.display(), report.failures);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn search_steps_match_golden() {
    assert_passes("bilevel_conv_");
}

#[test]
fn recurrent_networks_match_golden() {
    assert_passes("rnn_");
}

#[test]
fn recurrent_search_steps_match_golden() {
    assert_passes("bilevel_rnn_");
}

#[test]
fn optimizers_match_golden() {
    assert_passes("optimizers");
}

#[test]
fn schedules_match_golden() {
    assert_passes("schedules");
}

#[test]
fn derived_cells_match_golden() {
    assert_passes("derive_conv");
    assert_passes("derive_recurrent");
}

/// A golden file's tensors and metadata, to be written again with one thing changed.
struct Copy {
    tensors: BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>,
    metadata: std::collections::HashMap<String, String>,
}

impl Copy {
    fn read(name: &str) -> Self {
        let bytes = std::fs::read(golden_dir().join(name)).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file
            .iter()
            .map(|(name, t)| (name.to_owned(), (t.dtype(), t.shape().to_vec(), t.data().to_vec())))
            .collect();
        Self { tensors, metadata: header.metadata().clone().unwrap_or_default() }
    }

    /// What the check of this copy came to.
    fn check(&self, name: &str) -> Outcome {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let views = self
            .tensors
            .iter()
            .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
        let bytes = safetensors::serialize(views, Some(self.metadata.clone())).unwrap();
        std::fs::write(&path, bytes).unwrap();
        check_file(&path, &Processor)
    }
}

/// The keys of what failed.
fn failures(outcome: &Outcome) -> Vec<String> {
    assert!(!outcome.passed());
    match outcome {
        Outcome::Checked(report) => report.failures.iter().map(|failure| failure.key.clone()).collect(),
        other => panic!("{other:?}"),
    }
}

const FILE: &str = "optimizers.safetensors";

#[test]
fn a_damaged_value_fails_and_is_named() {
    let mut copy = Copy::read(FILE);
    assert!(copy.check(FILE).passed());
    let (_, _, data) = copy.tensors.get_mut("adam/param3").unwrap();
    let element = data.len() / 4 - 1;
    let value = f32::from_le_bytes(data[4 * element..].try_into().unwrap());
    data[4 * element..].copy_from_slice(&(value + 1e-3).to_le_bytes());
    let outcome = copy.check(FILE);
    assert_eq!(failures(&outcome), ["adam/param3"]);
    let Outcome::Checked(report) = outcome else { unreachable!("its failures were read") };
    assert!(report.failures[0].reason.starts_with(&format!("element {element} is ")), "{:?}", report.failures);
}

#[test]
fn a_key_that_nothing_recognises_fails() {
    let mut copy = Copy::read(FILE);
    let tensor = copy.tensors["adam/param3"].clone();
    copy.tensors.insert("adam/momentum3".to_owned(), tensor);
    assert_eq!(failures(&copy.check(FILE)), ["adam/momentum3"]);
}

#[test]
fn a_missing_tensor_fails() {
    let mut copy = Copy::read(FILE);
    copy.tensors.remove("sgd/param1");
    let outcome = copy.check(FILE);
    assert!(
        matches!(&outcome, Outcome::Failed { error, .. } if error.to_string().contains("sgd/param1")),
        "{outcome:?}"
    );
}

#[test]
fn a_changed_setting_fails() {
    let mut copy = Copy::read(FILE);
    copy.metadata.insert("sgd".to_owned(), r#"{"lr": 0.25, "weight_decay": 0.1, "steps": 6}"#.to_owned());
    assert!(failures(&copy.check(FILE)).contains(&"sgd/param0".to_owned()));
}

/// What the check came to of a JSON file with one thing changed.
fn changed_json(name: &str, change: impl FnOnce(&mut Value)) -> Outcome {
    let mut value: Value = serde_json::from_slice(&std::fs::read(golden_dir().join(name)).unwrap()).unwrap();
    change(&mut value);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, value.to_string()).unwrap();
    check_file(&path, &Processor)
}

#[test]
fn a_changed_json_file_fails() {
    assert!(changed_json("schedules.json", |_| ()).passed());
    let schedule = changed_json("schedules.json", |file| file["cosine"]["values"][7] = 0.0247.into());
    assert_eq!(failures(&schedule), ["cosine"]);
    let unknown = changed_json("schedules.json", |file| file["linear"] = file["cosine"].clone());
    assert_eq!(failures(&unknown), ["linear"]);
    let key = changed_json("schedules.json", |file| file["cosine"]["warm_up"] = 5.into());
    assert!(matches!(&key, Outcome::Failed { error, .. } if error.to_string().contains("warm_up")), "{key:?}");
    let cell = changed_json("derive_conv.json", |file| {
        file["cases"][3]["genotype"] = file["cases"][4]["genotype"].clone();
    });
    assert_eq!(failures(&cell).len(), 1);
    assert!(failures(&cell)[0].starts_with("case 3 "));
}

/// Bytes, words and pieces of a file changed at random, by a fixed generator.
fn mutated(bytes: &[u8], next: &mut impl FnMut() -> usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + next() % 3 {
        let at = next() % bytes.len();
        match next() % 5 {
            0 => bytes[at] = next() as u8,
            1 => bytes[at] ^= 1 << (next() % 8),
            2 => bytes.truncate(at.max(1)),
            3 => bytes.insert(at, b"0123456789{}[]\",:-e"[next() % 19]),
            // The length of the header and the beginning of it.
            _ => {
                let start = 64.min(bytes.len());
                bytes[at % start] = next() as u8;
            }
        }
        bytes.truncate(1 << 16);
    }
    bytes
}

#[test]
fn ten_thousand_mutated_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = 7u64;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize
    };
    let mut passed = 0;
    for name in [FILE, "schedules.json"] {
        let bytes = std::fs::read(golden_dir().join(name)).unwrap();
        let path = folder.path().join(name);
        for _ in 0..5_000 {
            std::fs::write(&path, mutated(&bytes, &mut next)).unwrap();
            passed += usize::from(check_file(&path, &Processor).passed());
            // A new file each time: overwriting one makes some file systems wait for the disk.
            std::fs::remove_file(&path).unwrap();
        }
    }
    // Some changes lie below the tolerance; most do not.
    assert!(passed < 4_000, "{passed} of 10,000 mutated files pass");
}

#[test]
fn a_file_fails_that_is_unknown_or_of_another_kind_than_its_name_says() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["surprise.safetensors", "rnn_enas.safetensors", "README.md"] {
        std::fs::copy(golden_dir().join(FILE), folder.path().join(name)).unwrap();
    }
    let mut seen = Vec::new();
    let mut each = |outcome: &Outcome| seen.push(outcome.path().file_name().unwrap().to_os_string());
    let summary = check_folder(folder.path(), None, &Processor, &mut each).unwrap();
    assert_eq!(seen, ["rnn_enas.safetensors", "surprise.safetensors"]);
    assert_eq!(summary, Summary { files: 2, values: 0, skipped: 0, failed: 2 });
    assert_eq!(summary.to_string(), "verify: 2 files, 0 values, 0 skipped");
}

#[test]
fn families_select_their_files_and_an_empty_folder_is_an_error() {
    let names = |family| -> Vec<String> {
        let files = golden_files(&golden_dir(), Some(family)).unwrap();
        files.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert!(names(Family::ImageNet).iter().all(|name| name.starts_with("imagenet_")));
    assert!(names(Family::Conv).contains(&"optimizers.safetensors".to_owned()));
    assert!(!names(Family::Conv).iter().any(|name| name.contains("rnn") || name.starts_with("imagenet_")));
    let folder = tempfile::tempdir().unwrap();
    let error = golden_files(folder.path(), None).unwrap_err().to_string();
    assert!(error.contains("no golden file"), "{error}");
}
