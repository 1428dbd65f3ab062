//! The convolutional golden files, by family, against what this machine computes.

use std::path::{Path, PathBuf};

use darts_runs::verify::{FileReport, Golden, Processor, VerifyError, conv};

/// `$DARTS_GOLDEN_DIR`, or the project's own copy.
fn golden_dir() -> PathBuf {
    std::env::var_os("DARTS_GOLDEN_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"), PathBuf::from)
}

/// Checks every file whose name starts with `family`; at least one must be there.
fn check(family: &str, verify: impl Fn(Golden) -> Result<FileReport, VerifyError>) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(golden_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(family) && name.ends_with(".safetensors")
    });
    files.sort();
    assert!(!files.is_empty(), "no file {family}*.safetensors in {}", golden_dir().display());
    for path in files {
        let report = verify(Golden::open(&path).unwrap()).unwrap();
        for group in &report.groups {
            println!("{}: {} {} worst {:.1e} ({})", path.display(), group.group, group.values, group.worst, group.key);
        }
        assert!(report.values > 0);
        assert!(report.passed(), "{}: {:#?}", path.display(), report.failures);
    }
}

#[test]
fn single_operations_match_golden() {
    check("conv_ops", |golden| conv::operations(golden, &Processor));
}

#[test]
fn supernet_matches_golden() {
    check("conv_supernet", |golden| conv::supernet(golden, &Processor));
}

#[test]
fn cifar_networks_match_golden() {
    check("cifar_", |golden| conv::discrete(golden, false, &Processor));
}

#[test]
fn imagenet_networks_match_golden() {
    check("imagenet_", |golden| conv::discrete(golden, true, &Processor));
}
