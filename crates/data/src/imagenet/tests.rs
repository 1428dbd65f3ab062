//! Tests of ImageNet's layouts: the tars against the folders that they unpack to, and what is missing or damaged.

use std::fs;
use std::time::{Duration, SystemTime};

use ::tar::{Archive, Builder};

use super::synthetic::Config;
use super::*;
use crate::dataset::Dataset;
use crate::{Augment, BadImages, Loader};

const SMALL: Config = Config { classes: 4, train_per_class: 5, val_per_class: 3, side: 20, seed: 1 };
const SIZE: ImageNetConfig = ImageNetConfig { image_size: 16, resize: 18 };

fn archives() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write(dir.path(), &SMALL).unwrap();
    dir
}

fn open(dir: &Path) -> ImageNet {
    ImageNet::open(dir, &SIZE).unwrap()
}

fn refused(dir: &Path) -> String {
    let error = ImageNet::open(dir, &SIZE).err().expect("it is refused").to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

fn examples(set: &StoredImages) -> Vec<(u32, Vec<u8>)> {
    let example = |index| {
        let mut pixels = vec![0; set.image_size().len()];
        set.read(index, &mut pixels).unwrap();
        (set.label(index), pixels)
    };
    (0..set.len()).map(example).collect()
}

/// The members of a tar: names and contents.
fn members(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut archive = Archive::new(fs::File::open(path).unwrap());
    let entry = |entry: std::io::Result<::tar::Entry<fs::File>>| {
        let mut entry = entry.unwrap();
        let (mut bytes, name) = (Vec::new(), entry.path().unwrap().display().to_string());
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        (name, bytes)
    };
    archive.entries().unwrap().map(entry).collect()
}

fn pack(path: &Path, members: &[(String, Vec<u8>)]) {
    let mut builder = Builder::new(fs::File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.finish().unwrap();
}

/// Unpacks the archives as the usual scripts do: `train/<wnid>/`, `val/<wnid>/`.
fn unpack(from: &Path, to: &Path) {
    let put = |path: PathBuf, bytes: &[u8]| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    for (inner, bytes) in members(&from.join(TRAIN_TAR)) {
        let packed = to.join(&inner);
        put(packed.clone(), &bytes);
        for (name, bytes) in members(&packed) {
            put(to.join("train").join(inner.trim_end_matches(".tar")).join(name), &bytes);
        }
        fs::remove_file(packed).unwrap();
    }
    let labels = devkit::read(&devkit::find(from).unwrap()).unwrap();
    for ((name, bytes), label) in members(&from.join(VAL_TAR)).iter().zip(labels.truth) {
        put(to.join("val").join(&labels.classes[label as usize]).join(name), bytes);
    }
}

#[test]
fn tars_give_the_same_examples_in_the_same_order_as_the_folders_they_unpack_to() {
    let (packed, unpacked) = (archives(), tempfile::tempdir().unwrap());
    unpack(packed.path(), unpacked.path());
    let (tars, folders) = (open(packed.path()), open(unpacked.path()));
    assert_eq!((tars.layout(), folders.layout()), (Layout::Tars, Layout::Folders));
    assert_eq!((tars.train().len(), tars.val().len(), tars.train().class_names().len()), (20, 12, 4));
    assert!(tars.train().class_names().is_sorted());
    for (tar, folder) in [(tars.train(), folders.train()), (tars.val(), folders.val())] {
        assert_eq!(tar.class_names(), folder.class_names());
        assert!(examples(&tar) == examples(&folder), "labels and pixels of a split");
        let base = |set: &StoredImages| -> Vec<String> {
            (0..set.len()).map(|i| set.name(i).rsplit('/').next().unwrap().to_owned()).collect()
        };
        assert_eq!(base(&tar), base(&folder));
    }
    let first_half: std::collections::HashSet<u32> = (0..10).map(|index| tars.train().label(index)).collect();
    assert!(first_half.len() >= 3, "the order mixes the classes");
}

#[test]
fn tiny_imagenet_is_read_in_its_own_layout() {
    let (packed, unpacked, tiny) = (archives(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    unpack(packed.path(), unpacked.path());
    let folders = open(unpacked.path());
    let at = |path: &str| tiny.path().join("tiny-imagenet-200").join(path);
    fs::create_dir_all(at("val/images")).unwrap();
    let mut annotations = String::new();
    for (split, set) in [("train", folders.train()), ("val", folders.val())] {
        for index in 0..set.len() {
            let (from, class) = (set.name(index), &set.class_names()[set.label(index) as usize]);
            let name = Path::new(&from).file_name().unwrap().to_str().unwrap();
            let to = if split == "val" {
                annotations += &format!("{name}\t{class}\t0\t0\t63\t63\n");
                at(&format!("val/images/{name}"))
            } else {
                at(&format!("train/{class}/images/{name}"))
            };
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&from, to).unwrap();
        }
    }
    fs::write(at("val/val_annotations.txt"), &annotations).unwrap();
    fs::write(at(&format!("train/{}/boxes.txt", folders.train().class_names()[0])), "no image").unwrap();
    let opened = open(tiny.path());
    assert_eq!((opened.layout(), opened.dir()), (Layout::Tiny, at("").as_path()));
    assert!(examples(&opened.val()) == examples(&folders.val()));
    let sorted = |set: &StoredImages| {
        let mut examples = examples(set);
        examples.sort();
        examples
    };
    assert!(sorted(&opened.train()) == sorted(&folders.train()));
    fs::write(at("val/val_annotations.txt"), annotations + "val_1.JPEG\tn99999999\n").unwrap();
    assert!(refused(tiny.path()).contains("val_1.JPEG is of n99999999, and train/ has no class of this name"));
}

#[test]
fn the_index_is_kept_and_made_anew_when_an_archive_changes() {
    let dir = archives();
    let made = || {
        let mut made = false;
        let opened = ImageNet::open_with(dir.path(), &SIZE, &mut |_, _| made = true).unwrap();
        (examples(&opened.train()), made)
    };
    let (first, was_made) = made();
    assert!(was_made && dir.path().join(index::FILE).is_file());
    assert_eq!(made(), (first.clone(), false));
    let tar = fs::File::options().append(true).open(dir.path().join(TRAIN_TAR)).unwrap();
    tar.set_modified(SystemTime::now() + Duration::from_secs(9)).unwrap();
    assert_eq!(made(), (first.clone(), true));
    let mut damaged = fs::read(dir.path().join(index::FILE)).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(dir.path().join(index::FILE), damaged).unwrap();
    assert_eq!(made(), (first, true));
    let left: Vec<String> =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.contains("partial")), "{left:?}");
}

#[test]
fn a_tar_cut_short_an_inner_tar_missing_and_a_kit_of_another_year_are_one_line_each() {
    let dir = archives();
    let at = |name: &str| dir.path().join(name);
    let whole = fs::read(at(TRAIN_TAR)).unwrap();
    fs::write(at(TRAIN_TAR), &whole[..whole.len() * 2 / 3]).unwrap();
    let error = refused(dir.path());
    assert!(error.contains("img_train.tar: its member n1") && error.contains("was cut short"), "{error}");

    fs::write(at(TRAIN_TAR), &whole).unwrap();
    let mut inner = members(&at(TRAIN_TAR));
    let removed = inner.remove(1).0;
    pack(&at(TRAIN_TAR), &inner);
    let error = refused(dir.path());
    assert!(error.contains(&format!("img_train.tar: the inner tar {removed} is missing")), "{error}");

    inner.insert(1, (removed.clone(), whole[512..1024].to_vec()));
    pack(&at(TRAIN_TAR), &inner);
    let error = refused(dir.path());
    assert!(error.contains(&format!("img_train.tar/{removed}: ")) && error.contains("was cut short"), "{error}");

    inner[1] = ("n99999999.tar".into(), Vec::new());
    pack(&at(TRAIN_TAR), &inner);
    assert!(refused(dir.path()).contains("n99999999 is no class of the development kit"));

    fs::write(at(TRAIN_TAR), &whole).unwrap();
    let val = fs::read(at(VAL_TAR)).unwrap();
    let mut images = members(&at(VAL_TAR));
    let (last, _) = images.pop().unwrap();
    pack(&at(VAL_TAR), &images);
    assert!(refused(dir.path()).contains("it has 11 images, the development kit has labels of 12"));
    images.push((last.replace("12", "13"), vec![0; 10]));
    pack(&at(VAL_TAR), &images);
    assert!(refused(dir.path()).contains("has no label: the development kit has those of 12 images"));
    fs::remove_file(at(VAL_TAR)).unwrap();
    assert!(refused(dir.path()).contains("ILSVRC2012_img_val.tar is missing"));

    fs::write(at(VAL_TAR), val).unwrap();
    let kit = at("ILSVRC2012_devkit_t12.tar.gz");
    let mut tar =
        Builder::new(flate2::write::GzEncoder::new(fs::File::create(&kit).unwrap(), flate2::Compression::fast()));
    let mut header = ::tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    tar.append_data(&mut header, "devkit/data/ILSVRC2010_validation_ground_truth.txt", &b"1\n"[..]).unwrap();
    tar.into_inner().unwrap().finish().unwrap();
    let error = refused(dir.path());
    assert!(
        error.contains("the kit of another year or task: it holds ILSVRC2010_validation_ground_truth.txt"),
        "{error}"
    );
    fs::rename(&kit, at("ILSVRC2010_devkit-1.0.tar.gz")).unwrap();
    assert!(refused(dir.path()).contains("there is only ILSVRC2010_devkit-1.0.tar.gz"));
    for name in [TRAIN_TAR, VAL_TAR] {
        fs::remove_file(at(name)).unwrap();
    }
    let error = refused(dir.path());
    assert!(error.contains("cargo xtask fetch imagenet") && error.contains("tiny-imagenet-200"), "{error}");
}

#[test]
fn batches_are_the_same_for_any_number_of_workers_and_after_a_skip() {
    let dir = archives();
    let batches = |workers: usize, skip: u64| -> Vec<(Vec<f32>, Vec<u32>)> {
        let loader = Loader::new(open(dir.path()).train(), Augment::imagenet(), 6).workers(workers);
        let batches = loader.epoch(3, 1).unwrap().skip(skip).map(Result::unwrap);
        batches.map(|batch| (batch.images().to_vec(), batch.labels().to_vec())).collect()
    };
    let one = batches(0, 0);
    assert_eq!(one.iter().map(|(_, labels)| labels.len()).collect::<Vec<_>>(), [6, 6, 6, 2]);
    assert!(one == batches(3, 0) && one[2..] == batches(2, 2));
    let again = Loader::new(open(dir.path()).train(), Augment::imagenet(), 6);
    assert!(one[0].0 != again.epoch(3, 2).unwrap().next().unwrap().unwrap().images());
}

#[test]
fn unreadable_images_are_left_out_and_listed_up_to_the_limit() {
    let dir = archives();
    let mut inner = members(&dir.path().join(TRAIN_TAR));
    for class in [0, 2] {
        let path = dir.path().join("inner.tar");
        fs::write(&path, &inner[class].1).unwrap();
        let mut images = members(&path);
        images[3].1.truncate(40);
        images[4].1 = b"no image".to_vec();
        pack(&path, &images);
        inner[class].1 = fs::read(&path).unwrap();
    }
    pack(&dir.path().join(TRAIN_TAR), &inner);
    let train = open(dir.path()).train();
    let epoch = |bad: &Arc<BadImages>, workers: usize| -> Result<Vec<u32>, Error> {
        let loader = Loader::new(train.clone(), Augment::imagenet(), 5).workers(workers).tolerating(bad.clone());
        let batches = loader.epoch(1, 0)?.collect::<Result<Vec<_>, Error>>()?;
        Ok(batches.iter().flat_map(|batch| batch.labels().to_vec()).collect())
    };
    let list = dir.path().join("bad-images.txt");
    let bad = Arc::new(BadImages::listed(4, list.clone()).unwrap());
    let labels = epoch(&bad, 1).unwrap();
    assert_eq!((labels.len(), bad.count()), (16, 4));
    // A second pass, with more workers, meets the same ones and counts none twice.
    assert_eq!((epoch(&bad, 3).unwrap(), bad.count()), (labels, 4));
    let text = fs::read_to_string(&list).unwrap();
    assert_eq!(
        (text.lines().count(), text.matches("_4.JPEG\tit is no JPEG, PNG or WebP image").count()),
        (4, 2),
        "{text}"
    );
    // What an earlier process found counts.
    assert_eq!(BadImages::listed(4, list).unwrap().count(), 4);
    let error = epoch(&Arc::new(BadImages::new(3)), 1).unwrap_err().to_string();
    assert!(error.starts_with("4 unreadable images, at most 3 allowed (max_bad_images): "), "{error}");
    let error = epoch(&Arc::new(BadImages::new(0)), 1).unwrap_err().to_string();
    assert!(error.contains(".JPEG: "), "{error}");
}

#[test]
fn any_folder_with_the_same_classes_is_read_with_their_labels() {
    let (packed, unpacked) = (archives(), tempfile::tempdir().unwrap());
    unpack(packed.path(), unpacked.path());
    let (val, folder) = (open(packed.path()).val(), unpacked.path().join("val"));
    // In another order, as the classes of another dataset may be, and with one that the folder lacks.
    let mut names = val.class_names().to_vec();
    names.reverse();
    names.insert(1, "n00000000".into());
    let centre = Centre::Of(SIZE.resize);
    let other = StoredImages::in_folder(&folder, &names, val.image_size(), centre, val.normalization()).unwrap();
    let named = |set: &StoredImages| -> Vec<(String, Vec<u8>)> {
        let labelled = examples(set).into_iter();
        labelled.map(|(label, pixels)| (set.class_names()[label as usize].clone(), pixels)).collect()
    };
    assert!(named(&val) == named(&other));
    assert!(StoredImages::fits(&folder, &names) && !StoredImages::fits(&folder, &names[..2]));
    assert!(!StoredImages::fits(unpacked.path(), &names) && !StoredImages::fits(packed.path(), &names));
    let error = StoredImages::in_folder(&folder, &names[..2], val.image_size(), centre, val.normalization());
    assert!(error.err().unwrap().to_string().contains("train/ has no class of this name"));
}

#[test]
fn sizes_outside_their_domain_are_refused() {
    let refused = |config: ImageNetConfig| ImageNet::open("nowhere", &config).err().unwrap().to_string();
    assert!(refused(ImageNetConfig { image_size: 4, resize: 8 }).starts_with("image size is 4"));
    assert!(refused(ImageNetConfig { image_size: 64, resize: 63 }).starts_with("resize is 63"));
    assert_eq!(ImageNetConfig::new(224).resize, 256);
}
