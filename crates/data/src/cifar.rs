//! CIFAR-10 in its official binary layout: files of records, each a label byte and 3,072 bytes of pixels (red, green,
//! blue planes of 32 × 32, row by row). It refuses files of any other size, and labels above 9.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dataset::{CHANNELS, Dataset, ImageSize, Normalization};
use crate::manifest::Manifest;
use crate::{Error, whole_file};

const SIDE: usize = 32;
const PIXELS: usize = SIDE * SIDE;
const IMAGE: usize = PIXELS * CHANNELS;
const RECORD: usize = 1 + IMAGE;
const RECORDS_PER_FILE: usize = 10_000;
const TRAIN_FILES: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
const TEST_FILES: [&str; 1] = ["test_batch.bin"];
/// The classes, in the order of their labels.
pub const CLASS_NAMES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// The dataset's folder, found and its files' sizes checked; nothing is read yet.
#[derive(Clone, Debug)]
pub struct Cifar10 {
    folder: PathBuf,
    records_per_file: usize,
}

impl Cifar10 {
    /// Finds the dataset: `dir` is its own folder, or the parent that holds `cifar-10-batches-bin/`.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the files are at neither place; [`Error::Io`] for a missing file;
    /// [`Error::WrongSize`] for one that has not 10,000 records (30,730,000 bytes).
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let manifest = Manifest::named("cifar10")?;
        let folder = manifest.locate(dir.as_ref())?;
        manifest.check_files(&folder)?;
        Ok(Self { folder, records_per_file: RECORDS_PER_FILE })
    }

    /// The 50,000 training images, in the files' order.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::WrongSize`] or [`Error::Label`] when a file is damaged.
    pub fn train(&self) -> Result<Arc<CifarImages>, Error> {
        self.read(&TRAIN_FILES)
    }

    /// The 10,000 test images, in the file's order.
    ///
    /// # Errors
    /// As [`train`](Self::train).
    pub fn test(&self) -> Result<Arc<CifarImages>, Error> {
        self.read(&TEST_FILES)
    }

    fn read(&self, files: &[&str]) -> Result<Arc<CifarImages>, Error> {
        let mut images = CifarImages::with_capacity(files.len() * self.records_per_file);
        for file in files {
            let path = self.folder.join(file);
            let expected = (self.records_per_file * RECORD) as u64;
            let bytes = whole_file::read_exactly(&path, expected)?;
            images.append(&bytes, &path)?;
        }
        Ok(Arc::new(images))
    }
}

/// Images and labels of one split, in memory, channels last.
pub struct CifarImages {
    pixels: Vec<u8>,
    labels: Vec<u8>,
    class_names: Vec<String>,
}

impl CifarImages {
    /// Reads records from memory; `origin` names them in errors.
    ///
    /// # Errors
    /// [`Error::WrongSize`] unless `bytes` is a whole number of records and at least one; [`Error::Label`].
    pub fn from_records(bytes: &[u8], origin: &Path) -> Result<Self, Error> {
        let mut images = Self::with_capacity(bytes.len() / RECORD);
        images.append(bytes, origin)?;
        Ok(images)
    }

    fn with_capacity(records: usize) -> Self {
        Self {
            pixels: Vec::with_capacity(records * IMAGE),
            labels: Vec::with_capacity(records),
            class_names: CLASS_NAMES.map(str::to_owned).to_vec(),
        }
    }

    fn append(&mut self, bytes: &[u8], origin: &Path) -> Result<(), Error> {
        let records = bytes.chunks_exact(RECORD);
        if bytes.is_empty() || !records.remainder().is_empty() {
            return Err(Error::WrongSize {
                path: origin.to_path_buf(),
                found: bytes.len() as u64,
                expected: format!("a multiple of {RECORD} bytes"),
            });
        }
        for (number, record) in records.enumerate() {
            let label = record[0];
            if usize::from(label) >= CLASS_NAMES.len() {
                let (path, classes) = (origin.to_path_buf(), CLASS_NAMES.len());
                return Err(Error::Label { path, record: number, label, classes });
            }
            self.labels.push(label);
            let (red, others) = record[1..].split_at(PIXELS);
            let (green, blue) = others.split_at(PIXELS);
            self.pixels.extend(red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]));
        }
        Ok(())
    }
}

impl Dataset for CifarImages {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn image_size(&self) -> ImageSize {
        ImageSize::square(SIDE)
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn normalization(&self) -> Normalization {
        Normalization::CIFAR10
    }

    fn label(&self, index: usize) -> u32 {
        self.labels[index].into()
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<(), Error> {
        pixels.copy_from_slice(&self.pixels[index * IMAGE..][..IMAGE]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    fn records(count: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; count * RECORD];
        Key::new(seed, Purpose::new("records")).generator().fill_bytes(&mut bytes);
        bytes.chunks_exact_mut(RECORD).for_each(|record| record[0] %= 10);
        bytes
    }

    fn small_dataset(folder: &Path) -> Cifar10 {
        for (seed, file) in TRAIN_FILES.iter().chain(&TEST_FILES).enumerate() {
            std::fs::write(folder.join(file), records(3, seed as u64)).unwrap();
        }
        Cifar10 { folder: folder.to_path_buf(), records_per_file: 3 }
    }

    #[test]
    fn planes_become_channels_last_like_the_records() {
        let folder = tempfile::tempdir().unwrap();
        let train = small_dataset(folder.path()).train().unwrap();
        assert_eq!(train.len(), 15);
        let mut pixels = vec![0; IMAGE];
        for index in 0..15 {
            let file = records(3, index / 3);
            let record = &file[(index as usize % 3) * RECORD..][..RECORD];
            train.read(index as usize, &mut pixels).unwrap();
            assert_eq!(train.label(index as usize), u32::from(record[0]));
            for (at, &value) in pixels.iter().enumerate() {
                assert_eq!(value, record[1 + (at % 3) * PIXELS + at / 3], "image {index}, element {at}");
            }
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let dataset = small_dataset(folder.path());
        std::fs::remove_file(folder.path().join("data_batch_4.bin")).unwrap();
        let error = dataset.train().err().unwrap().to_string();
        assert!(error.starts_with("cannot open") && error.contains("data_batch_4.bin"), "{error}");
    }

    #[test]
    fn a_file_of_the_wrong_size_is_named_with_the_expected_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let dataset = small_dataset(folder.path());
        for size in [0, 3 * RECORD - 1, 3 * RECORD + 1] {
            std::fs::write(folder.path().join("test_batch.bin"), vec![0; size]).unwrap();
            let error = dataset.test().err().unwrap().to_string();
            assert!(error.contains(&format!("test_batch.bin: {size} bytes, expected 9219 bytes")), "{error}");
        }
    }

    #[test]
    fn a_label_above_nine_is_named_with_its_record() {
        let mut bytes = records(3, 0);
        bytes[2 * RECORD] = 10;
        let error = CifarImages::from_records(&bytes, Path::new("some.bin")).err().unwrap();
        assert_eq!(error.to_string(), "some.bin: record 2 has label 10, expected 0 to 9");
    }

    #[test]
    fn a_folder_without_the_dataset_says_where_it_looked() {
        let folder = tempfile::tempdir().unwrap();
        let error = Cifar10::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("cifar-10-batches-bin") && error.contains("fetch cifar10"), "{error}");
    }

    #[test]
    fn mutated_records_never_panic() {
        let valid = records(2, 9);
        let origin = Path::new("mutated.bin");
        let (mut accepted, mut refused) = (0, 0);
        for input in 0..10_000 {
            let mut random = Key::new(input, Purpose::new("mutated records")).generator();
            let mut bytes = valid.clone();
            let header = random.below(2) * RECORD;
            bytes[header] = random.below(20) as u8;
            if random.chance(0.3) {
                bytes.truncate(random.below(bytes.len() + 1));
            }
            match CifarImages::from_records(&bytes, origin) {
                Ok(images) => {
                    accepted += 1;
                    assert_eq!(images.pixels.len() + images.labels.len(), bytes.len());
                }
                Err(Error::Label { .. } | Error::WrongSize { .. }) => refused += 1,
                Err(other) => panic!("unexpected {other}"),
            }
        }
        assert!(accepted > 2_000 && refused > 2_000, "{accepted} accepted, {refused} refused");
    }

    #[test]
    fn real_cifar10_has_its_published_counts() {
        let Some(data) = std::env::var_os("DARTS_DATA") else {
            println!("skipped: DARTS_DATA is not set");
            return;
        };
        let Ok(dataset) = Cifar10::open(Path::new(&data)) else {
            println!("skipped: no CIFAR-10 in DARTS_DATA");
            return;
        };
        for (images, per_class) in [(dataset.train().unwrap(), 5000), (dataset.test().unwrap(), 1000)] {
            let mut counts = [0; 10];
            (0..images.len()).for_each(|index| counts[images.label(index) as usize] += 1);
            assert_eq!(counts, [per_class; 10]);
        }
    }
}
