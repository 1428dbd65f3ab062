//! ImageNet for the tasks that need it: where it is, how to get it (it may not be fetched by a program), and whether what
//! is there is whole. Downloads nothing.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use darts_data::imagenet::{ImageNet, ImageNetConfig, Layout, TRAIN_TAR, VAL_TAR};
use darts_data::{Dataset as _, Error};
use indicatif::{ProgressBar, ProgressStyle};
use md5::{Digest as _, Md5};

use crate::fetch;

/// An official archive of ILSVRC 2012: name, bytes where they are known, MD5.
struct Archive(&'static str, Option<u64>, &'static str);

const ARCHIVES: [Archive; 3] = [
    Archive(TRAIN_TAR, Some(147_897_477_120), "1d675b47d978889d74fa0da5fadfb00e"),
    Archive(VAL_TAR, Some(6_744_924_160), "29b22e2961454d5413ddabcf34fc5622"),
    Archive("ILSVRC2012_devkit_t12.tar.gz", None, "fa75699e90414af021442c21a62c3abf"),
];

/// (classes, training images, validation images) of ILSVRC 2012, and of Tiny-ImageNet.
const ILSVRC: (usize, usize, usize) = (1000, 1_281_167, 50_000);
const TINY: (usize, usize, usize) = (200, 100_000, 10_000);

const HOW_TO_GET_IT: &str = "\
ImageNet (ILSVRC 2012) may be downloaded only by a person who has registered and accepted its terms:
  1. register at image-net.org, and ask for access to ILSVRC 2012;
  2. download the training images (138 GB), the validation images (6.3 GB) and the development kit of tasks 1 and 2:
     ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz;
  3. put the three into one folder and leave them packed: they are read in place.
An unpacked copy (train/<class>/<image>, val/<class>/<image>) and Tiny-ImageNet are taken as they are.";

/// The folder with ImageNet in one of its layouts.
///
/// # Errors
/// It is not there: the error says how to get it.
pub(crate) fn folder(typed: Option<&Path>) -> Result<PathBuf> {
    let folder = fetch::folder(typed);
    match ImageNet::locate(&folder) {
        Ok((found, _)) => Ok(found),
        Err(error) => bail!("{error}"),
    }
}

/// `cargo xtask fetch imagenet`: says how to get it where it is not there; else checks sizes, checksums and counts.
///
/// # Errors
/// It is not there, or not whole.
pub(crate) fn verify(dir: &Path) -> Result<()> {
    let (dir, layout) = match ImageNet::locate(dir) {
        Ok(found) => found,
        Err(error @ Error::NotFound { .. }) => {
            println!("{HOW_TO_GET_IT}");
            bail!("{error}; it is to be had at image-net.org, by a registered person");
        }
        Err(error) => return Err(error.into()),
    };
    println!("imagenet: {} in {}", described(layout), dir.display());
    if layout == Layout::Tars {
        for archive in &ARCHIVES {
            check(&dir, archive)?;
        }
    }
    let bar = bar("{bar:24} {pos}/{len} classes indexed, {eta} left");
    let opened = ImageNet::open_with(&dir, &ImageNetConfig::default(), &mut |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let opened = opened?;
    let train = opened.train();
    let found = (train.class_names().len(), train.len(), opened.val().len());
    let expected = if layout == Layout::Tiny { TINY } else { ILSVRC };
    let counted = |(classes, train, val)| format!("{classes} classes, {train} training and {val} validation images");
    if opened.is_synthetic() {
        println!("imagenet: generated archives with {}", counted(found));
    } else if found == expected {
        println!("imagenet: complete: {}", counted(found));
    } else {
        println!(
            "imagenet: {}, not the {} of the whole: it can be used, and its results compare with nobody's",
            counted(found),
            counted(expected)
        );
    }
    Ok(())
}

fn described(layout: Layout) -> &'static str {
    match layout {
        Layout::Tars => "the official archives",
        Layout::Folders => "folders of images",
        Layout::Tiny => "Tiny-ImageNet",
    }
}

/// Size and checksum of an archive; one of another size than the official one is named, and used if it can be read.
fn check(dir: &Path, Archive(name, bytes, md5): &Archive) -> Result<()> {
    let path = dir.join(name);
    let Ok(metadata) = fs::metadata(&path) else { return Ok(()) };
    if let Some(bytes) = bytes.filter(|bytes| *bytes != metadata.len()) {
        println!("{name}: {} bytes, the official one has {bytes}", metadata.len());
        return Ok(());
    }
    let found = sum(&path, metadata.len()).with_context(|| format!("cannot read {}", path.display()))?;
    if found == *md5 {
        println!("{name}: MD5 {md5}, the official one");
    } else if bytes.is_some() {
        bail!("{name}: MD5 {found}, the official one's is {md5}: the file is damaged, get it again");
    } else {
        println!("{name}: MD5 {found}, the official one's is {md5}");
    }
    Ok(())
}

fn sum(path: &Path, bytes: u64) -> io::Result<String> {
    let bar = bar("{bar:24} {bytes}/{total_bytes} checked, {eta} left");
    bar.set_length(bytes);
    let (mut file, mut sum, mut buffer) = (File::open(path)?, Md5::new(), vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            bar.finish_and_clear();
            return Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        sum.update(&buffer[..read]);
        bar.inc(read as u64);
    }
}

/// A bar on stderr, which shows itself on a terminal alone.
fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use darts_data::imagenet::synthetic;

    use super::{folder, sum, verify};

    #[test]
    fn a_checksum_matches_the_standard() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "message digest").unwrap();
        // RFC 1321, appendix A.5.
        assert_eq!(sum(file.path(), 14).unwrap(), "f96b697d7cb7938d525a2f31aaf161d0");
    }

    #[test]
    fn generated_archives_are_verified_and_an_empty_folder_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let error = verify(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("ILSVRC2012_img_train.tar") && error.contains(&dir.path().display().to_string()),
            "{error}"
        );
        assert!(folder(Some(dir.path())).unwrap_err().to_string().contains("fetch imagenet"));
        let config = synthetic::Config { classes: 2, train_per_class: 2, val_per_class: 1, side: 16, seed: 0 };
        synthetic::write(&dir.path().join("imagenet"), &config).unwrap();
        verify(dir.path()).unwrap();
        assert!(folder(Some(dir.path())).unwrap().ends_with("imagenet"));
    }
}
