//! Tests of image folders: layouts, splits, unreadable images, memory budget.

use std::collections::HashSet;

use super::*;
use crate::dataset::Dataset;

/// Writes PNG files of one colour under `root`, each named by its path.
fn write(root: &Path, files: &[(&str, [u8; 3])]) {
    for (name, colour) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(6, 5, image::Rgb(*colour)).save(path).unwrap();
    }
}

fn many(root: &Path, split: &str, per_class: usize) {
    for (class, red) in [("ant", 10), ("bee", 100), ("cat", 200)] {
        for number in 0..per_class {
            write(root, &[(&format!("{split}{class}/{number}.png"), [red, number as u8, 7])]);
        }
    }
}

fn config() -> ImageFolderConfig {
    ImageFolderConfig { image_size: ImageSize::square(4), held_out: 0.2, ..ImageFolderConfig::default() }
}

fn names(set: &ImageSet) -> Vec<PathBuf> {
    (0..set.len()).map(|index| set.path(index).to_path_buf()).collect()
}

fn message(root: &Path, config: &ImageFolderConfig) -> String {
    ImageFolder::open(root, config).err().unwrap().to_string()
}

#[test]
fn one_folder_of_classes_is_split_by_class_and_seed() {
    let root = tempfile::tempdir().unwrap();
    many(root.path(), "", 10);
    let folder = ImageFolder::open(root.path(), &config()).unwrap();
    let (train, valid) = (folder.train(), folder.valid());
    assert_eq!(train.class_names(), ["ant", "bee", "cat"]);
    assert_eq!((train.len(), valid.len(), folder.test().is_none(), folder.is_held_out()), (24, 6, true, true));
    for label in 0..3 {
        assert_eq!((0..6).filter(|&index| valid.label(index) == label).count(), 2);
    }
    let all: HashSet<PathBuf> = names(&train).into_iter().chain(names(&valid)).collect();
    assert_eq!(all.len(), 30);
    assert_eq!(names(&train), names(&ImageFolder::open(root.path(), &config()).unwrap().train()));
    let other = ImageFolder::open(root.path(), &ImageFolderConfig { seed: 1, ..config() }).unwrap();
    assert_ne!(names(&valid), names(&other.valid()));
}

#[test]
fn labels_and_pixels_are_those_of_the_files_and_classes_are_mixed() {
    let root = tempfile::tempdir().unwrap();
    many(root.path(), "train/", 20);
    let train = ImageFolder::open(root.path(), &ImageFolderConfig { held_out: 0.0, ..config() }).unwrap().train();
    let mut pixels = [0; 48];
    for index in 0..60 {
        train.read(index, &mut pixels).unwrap();
        assert_eq!(pixels[0], [10, 100, 200][train.label(index) as usize]);
    }
    let first_half: HashSet<u32> = (0..30).map(|index| train.label(index)).collect();
    assert_eq!(first_half.len(), 3, "a half holds all classes");
}

#[test]
fn a_val_folder_is_the_validation_split_and_test_the_test_split() {
    let root = tempfile::tempdir().unwrap();
    many(root.path(), "train/", 4);
    write(root.path(), &[("val/bee/images/x.PNG", [0; 3]), ("test/cat/y.png", [0; 3]), ("val/.hidden/z.png", [0; 3])]);
    std::fs::write(root.path().join("val/bee/notes.txt"), "no image").unwrap();
    let folder = ImageFolder::open(root.path(), &config()).unwrap();
    assert_eq!((folder.train().len(), folder.valid().len(), folder.is_held_out()), (12, 1, false));
    assert_eq!((folder.valid().label(0), folder.test().unwrap().label(0)), (1, 2));
}

#[test]
fn memory_and_disk_give_the_same_pixels_and_constants() {
    let root = tempfile::tempdir().unwrap();
    many(root.path(), "", 5);
    let kept = ImageFolder::open(root.path(), &config()).unwrap().train();
    let read = ImageFolder::open(root.path(), &ImageFolderConfig { memory_budget: 0, ..config() }).unwrap().train();
    assert!(kept.is_in_memory() && !read.is_in_memory());
    assert_eq!(kept.normalization(), read.normalization());
    let (mut a, mut b) = ([0; 48], [1; 48]);
    for index in 0..kept.len() {
        kept.read(index, &mut a).unwrap();
        read.read(index, &mut b).unwrap();
        assert_eq!(a, b);
    }
}

#[test]
fn normalization_is_the_mean_and_deviation_of_the_training_pixels() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &[("train/a/0.png", [0, 51, 255]), ("train/b/0.png", [255, 51, 0])]);
    let normalization = ImageFolder::open(root.path(), &config()).unwrap().train().normalization();
    for (found, expected) in normalization.mean.iter().zip([0.5, 0.2, 0.5]) {
        assert!((found - expected).abs() < 1e-9, "{normalization:?}");
    }
    for (found, expected) in normalization.std.iter().zip([0.5, 1.0 / 255.0, 0.5]) {
        assert!((found - expected).abs() < 1e-9, "{normalization:?}");
    }
}

#[test]
fn unreadable_images_are_named_or_left_out_up_to_the_limit() {
    let root = tempfile::tempdir().unwrap();
    many(root.path(), "", 6);
    std::fs::write(root.path().join("ant/bad.png"), "not an image").unwrap();
    std::fs::write(root.path().join("cat/empty.jpg"), "").unwrap();
    for memory_budget in [0, 1 << 30] {
        let allow = |max_bad_images| ImageFolderConfig { max_bad_images, memory_budget, ..config() };
        let folder = ImageFolder::open(root.path(), &allow(2)).unwrap();
        let mut bad: Vec<&Path> = folder.bad_images().iter().map(|bad| bad.path.as_path()).collect();
        bad.sort();
        assert_eq!(bad, [root.path().join("ant/bad.png"), root.path().join("cat/empty.jpg")]);
        assert_eq!(folder.train().len() + folder.valid().len(), 18);
        let mut pixels = [0; 48];
        for set in [folder.train(), folder.valid()] {
            for index in 0..set.len() {
                set.read(index, &mut pixels).unwrap();
                assert_eq!(pixels[0], [10, 100, 200][set.label(index) as usize]);
            }
        }
        let error = message(root.path(), &allow(1));
        assert!(error.starts_with("2 unreadable images, at most 1 allowed"), "{error}");
    }
    let error = message(root.path(), &config());
    assert!(error.contains("bad.png: it is no JPEG") || error.contains("empty.jpg: it is no JPEG"), "{error}");
    let lazy = ImageFolder::open(root.path(), &ImageFolderConfig { memory_budget: 0, ..config() }).unwrap();
    let errors = [lazy.train(), lazy.valid()]
        .into_iter()
        .map(|set| (0..set.len()).filter(|&index| set.read(index, &mut [0; 48]).is_err()).count());
    assert_eq!(errors.sum::<usize>(), 2, "without tolerance an image that is read later fails when it is read");
}

#[test]
fn folders_without_the_layout_say_what_is_wrong() {
    let root = tempfile::tempdir().unwrap();
    let missing = message(&root.path().join("nowhere"), &config());
    assert!(missing.contains("nowhere: it is not a folder; expected train/<class>/<image>"), "{missing}");
    assert!(message(root.path(), &config()).contains("at least 2 class folders are needed, found none"));
    write(root.path(), &[("train/a/0.png", [0; 3])]);
    assert!(message(root.path(), &config()).contains("at least 2 class folders are needed, found a"));
    std::fs::create_dir(root.path().join("train/b")).unwrap();
    assert!(message(root.path(), &config()).contains("b: the class has no image (jpg, jpeg, png, webp)"));
    write(root.path(), &[("train/b/0.png", [0; 3]), ("val/c/0.png", [0; 3])]);
    assert!(message(root.path(), &config()).contains("c: train/ has no class of this name"));
    std::fs::rename(root.path().join("train"), root.path().join("test")).unwrap();
    assert!(message(root.path(), &config()).contains("it has test/ and no train/"));
    let error = message(root.path(), &ImageFolderConfig { held_out: 1.5, ..config() });
    assert_eq!(error, "held-out fraction is 1.5, expected at least 0, less than 1");
}

#[test]
fn real_photographs_are_read() {
    let Some(data) = std::env::var_os("DARTS_DATA").map(PathBuf::from) else {
        println!("skipped: DARTS_DATA is not set");
        return;
    };
    let sample = data.join("imagenet-sample");
    if !sample.is_dir() {
        println!("skipped: no imagenet-sample in DARTS_DATA");
        return;
    }
    let config = ImageFolderConfig { image_size: ImageSize::square(64), ..ImageFolderConfig::default() };
    let folder = ImageFolder::open(sample, &config).unwrap();
    assert_eq!((folder.train().len(), folder.train().class_names().len()), (90, 90));
}
